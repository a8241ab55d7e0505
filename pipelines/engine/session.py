"""One Spark session, quiet: no UI, no event log, no log lines, so that exact intermediate counts show nowhere."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from governance.errors import EnvironmentProblem
from governance.settings import Spark

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["spark_session"]


def spark_session(settings: Spark) -> SparkSession:
    """Starts Spark, or returns the session that runs.

    Raises:
        EnvironmentProblem: Java is missing or too old.
    """
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    active = SparkSession.getActiveSession()
    if active is not None:
        return active
    builder = (
        SparkSession.builder.appName("hedgerow")
        .master(settings.master)
        .config("spark.driver.memory", settings.driver_memory)
        .config("spark.sql.shuffle.partitions", settings.shuffle_partitions)
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.adaptive.enabled", True)
        .config("spark.sql.ansi.enabled", True)
        .config("spark.sql.execution.arrow.maxRecordsPerBatch", 65_536)
        .config("spark.sql.parquet.compression.codec", "zstd")
        .config("spark.ui.enabled", False)
        .config("spark.ui.showConsoleProgress", False)
        .config("spark.eventLog.enabled", False)
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.extraJavaOptions", "-XX:+UseParallelGC -XX:ReservedCodeCacheSize=256m")
    )
    try:
        with _silent_children():
            session = builder.getOrCreate()
    except (PySparkException, OSError, RuntimeError) as error:
        raise EnvironmentProblem(
            f"Spark does not start ({type(error).__name__}); run 'hedgerow doctor' to check Java, memory and disk"
        ) from None
    session.sparkContext.setLogLevel("OFF")
    # Workers run this interpreter, with its packages; PYSPARK_PYTHON is the environment's, which is not ours to set.
    session.sparkContext.pythonExec = sys.executable
    return session


@contextmanager
def _silent_children() -> Iterator[None]:
    """Gives processes started within it no standard error: the JVM and its workers would log rows and counts there."""
    sys.stderr.flush()
    saved = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
