"""Fourteen ways in which differential privacy fails in practice, and what is said about each of one release.

The list is that of NIST SP 800-226 (privacy hazards) with what deployments have added to it. A hazard names the test
that shows what its evidence says; `tests/unit/test_disclosure.py` checks that every named test exists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from governance.disclosure.model import Hazard, Hazards
from governance.release import Manifest

__all__ = ["HAZARDS", "hazards_of", "reads_people"]

_Status = Literal["addressed", "partly", "not_addressed", "not_applicable"]
_ENGINE = "tests/integration/test_engine.py"
_RUN = "tests/integration/test_run.py"
_NOISE = "tests/statistical/test_noise.py"
_SELECTION = "tests/statistical/test_selection.py"
_PUBLIC_TEST = f"{_RUN}::test_private_tables_cannot_be_called_public"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """What is said of every release that reads people's data; `of` says it of one where that depends on it."""

    status: _Status
    evidence: str
    test: str


def _fixed(status: _Status, evidence: str, test: str) -> Callable[[Manifest], _Answer]:
    answer = _Answer(status=status, evidence=evidence, test=test)
    return lambda _: answer


def _partitions(manifest: Manifest) -> _Answer:
    guarantee = manifest.guarantee
    if guarantee.selection == "private":
        return _Answer(
            status="addressed",
            evidence=(
                f"A key shows only where its {guarantee.selected_by} is {guarantee.threshold_text} or more; the chance "
                "that a key which one unit alone brings shows at all is charged to delta."
            ),
            test=f"{_SELECTION}::test_one_unit_shows_no_more_often_than_delta",
        )
    return _Answer(
        status="addressed",
        evidence="Keys are public: each is released with noise, whether or not anybody is in it, and no other ever is.",
        test=f"{_ENGINE}::test_absent_public_keys_get_noise_and_other_keys_never_appear",
    )


def _memorisation(manifest: Manifest) -> _Answer:
    if manifest.signal.kind == "signal":
        return _Answer(
            status="not_applicable",
            evidence="The release is a table of noisy statistics: no model is trained and no record is synthesised.",
            test=f"{_ENGINE}::test_zero_noise_equals_the_plain_bounded_aggregation",
        )
    return _Answer(
        status="addressed",
        evidence="The vectors are computed from noisy sums only, so they can hold of one unit no more than these tell.",
        test=f"{_ENGINE}::test_noise_in_a_release_has_the_scale_that_the_plan_says",
    )


HAZARDS: Mapping[str, Callable[[Manifest], _Answer]] = {
    "floating_point": _fixed(
        "addressed",
        "Values are rounded to a public grid row by row; sums and noise are 64-bit integers, and the sampler draws "
        "integers. No floating-point order, rounding or gap enters a sensitivity or a noise value.",
        f"{_NOISE}::test_noise_has_the_exact_distribution",
    ),
    "timing_side_channel": _fixed(
        "partly",
        "Nobody queries and times an answer: releases are made in batches, and a manifest tells one point in time and "
        "no duration. Whoever watches the machines sees how long a run takes, which depends on the data.",
        "tests/unit/test_disclosure.py::test_a_manifest_tells_one_point_in_time_and_no_duration",
    ),
    "data_dependent_errors": _fixed(
        "partly",
        "Messages name columns and kinds of failure, never rows, ids, keys or counts, and the engine's own are "
        "withheld. That a run refused its input is seen by whoever ran it.",
        f"{_RUN}::test_no_value_reaches_the_terminal_when_spark_fails",
    ),
    "data_dependent_partitions": _partitions,
    "unprotected_quantities": _fixed(
        "partly",
        "What the definition states (window, bounds, intervals, public keys, purpose) is public and is derived from "
        "nothing private by hedgerow. Whether people chose it by looking at the data cannot be checked by a program.",
        "tests/unit/test_plan.py::test_a_plan_reads_and_writes_nothing",
    ),
    "retry_redraw": _fixed(
        "addressed",
        "Noise is a keyed function of release, measurement and key: a task that is retried or run twice draws the same "
        "noise, and a release that exists is never made again.",
        f"{_ENGINE}::test_order_and_files_change_nothing_not_even_the_noise",
    ),
    "rng_quality": _fixed(
        "addressed",
        "Uniform bits come from AES-256 under a key of the operating system's random numbers, one for each release; "
        "the sampler's distance from the ideal distribution is charged to delta.",
        f"{_NOISE}::test_words_are_uniform",
    ),
    "preprocessing_unaccounted": _fixed(
        "partly",
        "Joins with public tables come before the bounds, so rows that they multiply are bounded too. What is done to "
        "the events before hedgerow reads them is not seen here.",
        f"{_ENGINE}::test_a_join_that_multiplies_rows_is_bounded_after_it",
    ),
    "hyperparameter_tuning": _fixed(
        "partly",
        "Bounds, budgets and windows stand in a versioned definition; trying another one is another release, which is "
        "charged. Choosing them by looking at the raw data is outside the guarantee.",
        f"{_RUN}::test_a_changed_definition_needs_a_new_version",
    ),
    "logs_and_dq_reports": _fixed(
        "addressed",
        "Plans, logs, lineage, quality results and reports hold no exact sums, values, unit ids or counts of raw rows, "
        "and the run's secret never leaves memory.",
        f"{_ENGINE}::test_neither_the_secret_nor_exact_sums_stay_on_disk",
    ),
    "backend_access": _fixed(
        "partly",
        "Feature store, server and devices hold releases only. Whoever runs pipelines reads the raw events, and is "
        "trusted with them.",
        f"{_RUN}::test_exact_sums_of_a_test_run_are_not_taken_for_a_release",
    ),
    "data_collection_exposure": _fixed(
        "not_addressed",
        "Raw events are collected and kept centrally before any noise; differential privacy protects what is released, "
        "not what is stored. Signals that never leave the device exist beside this one.",
        "tests/unit/test_ondevice_imports.py::test_no_module_of_the_core_or_behind_it_has_network_code",
    ),
    "synthetic_or_model_memorisation": _memorisation,
    "bias_and_small_groups": _fixed(
        "partly",
        "Noise is the same for every group, so small groups are told less accurately, and private selection leaves "
        "them out; the plan tells the expected error by group size. The bias of bounding depends on the data and is "
        "not told.",
        "tests/unit/test_plan.py::test_errors_shrink_with_the_group",
    ),
}
"""Every hazard's answer for a release that reads people's data."""


def reads_people(manifest: Manifest) -> bool:
    """Whether any private input was read."""
    return any(source.access != "public" for source in manifest.inputs)


def hazards_of(manifest: Manifest) -> Hazards:
    """All fourteen for one release; for one from public inputs none applies."""
    if not reads_people(manifest):
        none = Hazard(
            status="not_applicable",
            evidence="Only public inputs were read: nobody's data can be harmed by it.",
            test=_PUBLIC_TEST,
        )
        return Hazards(**dict.fromkeys(HAZARDS, none))
    answers = {name: answer(manifest) for name, answer in HAZARDS.items()}
    return Hazards(**{name: Hazard(status=a.status, evidence=a.evidence, test=a.test) for name, a in answers.items()})
