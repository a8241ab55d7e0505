"""Policy as code: which releases may be made and published, and who may read them, for which purpose.

A project's policy is YAML below `policy/`, so that those who answer for it can read it, and nothing of it is executed.
One pure function, `decide`, is asked at plan, run, publish and serve time. A policy that is there permits only what no
rule refuses, and no read that no rule permits; a project without one permits everything, and its report says so.

Reading guide
    requests    what is asked: facts of a release, or a read
    rules       the kinds of rule, each with a stable id
    decisions   decide(policy, request) -> Decision
    record      the processing record: who answers for it, whose data, how long (GDPR Art. 30)
    document    policy/*.yaml as one frozen Policy
    facts       a published manifest as a request
    examples    the policy's own examples, run by `hedgerow policy test`
    refusals    refused requests on their way into the ledger
"""

from governance.policy.decisions import Decision, Refusal, decide
from governance.policy.document import Policy, load_policy
from governance.policy.facts import request_of_manifest
from governance.policy.record import ProcessingRecord
from governance.policy.refusals import RefusalRecorder, enforce, record_refusals
from governance.policy.requests import Action, ReadRequest, ReleaseRequest, Request

__all__ = [
    "Action",
    "Decision",
    "Policy",
    "ProcessingRecord",
    "ReadRequest",
    "Refusal",
    "RefusalRecorder",
    "ReleaseRequest",
    "Request",
    "decide",
    "enforce",
    "load_policy",
    "record_refusals",
    "request_of_manifest",
]
