"""The processing record: what people must state, because no program can know it (GDPR Art. 30, and who signed off).

What a program does know (purposes, datasets, retention, recipients by rule) is taken from definitions, manifests and
rules instead, so that the two cannot drift apart.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated

from pydantic import Field

from governance.policy.rules import Model, Text

__all__ = ["Contact", "Dataset", "ProcessingRecord", "SignOff"]


class Contact(Model):
    """A person's role or an organisation, and how to reach it."""

    name: Text
    contact: Text


class Dataset(Model):
    """A private dataset as people describe it.

    Attributes:
        category: the category of data that rules decide by.
        description: what is in it.
        kept: how long the raw events are kept, in words.
    """

    category: Text
    description: Text
    kept: Text


class SignOff(Model):
    """Who decided that these releases may be made, and why.

    Attributes:
        decided_by: a role.
        justification: why the benefit outweighs the loss.
        date: when.
        review_by: when it is looked at again.
        dpia: reference to the data protection impact assessment.
    """

    decided_by: Text
    justification: Text
    date: dt.date
    review_by: dt.date | None = None
    dpia: Text | None = None


class ProcessingRecord(Model):
    """The record of processing activities (GDPR Art. 30(1)), as far as people state it.

    Attributes:
        controller: (a) who decides on purposes and means.
        joint_controllers: (a).
        representative: (a).
        data_protection_officer: (a).
        legal_basis: Art. 6.
        data_subjects: (c) categories of people.
        recipients: (d) categories of those who receive releases.
        transfers: (e) third countries and their safeguards; empty: none.
        security_measures: (g).
        region: where the data was collected.
        sector: of the economy.
        people_with_several_units: what is promised to a person who has several of the privacy unit, e.g. accounts.
        sign_off: who decided.
    """

    controller: Contact
    joint_controllers: tuple[Contact, ...] = ()
    representative: Contact | None = None
    data_protection_officer: Contact | None = None
    legal_basis: Text
    data_subjects: Annotated[tuple[Text, ...], Field(min_length=1)]
    recipients: Annotated[tuple[Text, ...], Field(min_length=1)]
    transfers: tuple[Text, ...] = ()
    security_measures: Annotated[tuple[Text, ...], Field(min_length=1)]
    region: Text
    sector: Text
    people_with_several_units: Text
    sign_off: SignOff
