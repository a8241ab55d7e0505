"""A pytest plugin for Feast's tests: they import the clients of every store there is, and what is absent is not tested.

Copied beside Feast's tests by `feast_published`, whose `tests` package is Feast's.
"""

from __future__ import annotations

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

CLIENTS = frozenset({
    "aerospike", "azure", "boto3", "botocore", "cassandra", "couchbase", "deltalake", "docker",
    "elasticsearch", "google", "happybase", "hazelcast", "ibis", "jwt", "kubernetes", "moto", "mysql",
    "oracledb", "psycopg", "psycopg_pool", "pyathena", "pymilvus", "pymongo", "pymysql", "pyodbc",
    "qdrant_client", "ray", "redshift_connector", "s3fs", "singlestoredb", "snowflake", "sqlalchemy", "trino",
})  # fmt: skip


class Absent(MetaPathFinder, Loader):
    """Last in line: finds a stand-in for every module of a client that no other finder found."""

    def find_spec(self, name: str, *_: Any) -> ModuleSpec | None:  # type: ignore[override]
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] in CLIENTS else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = MagicMock(name=spec.name)
        module.__spec__, module.__path__, module.__name__ = spec, [], spec.name
        return module

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing to run."""


sys.meta_path.append(Absent())
