"""Spark, quiet: no UI, no event log, no log lines, so that exact intermediate counts show nowhere.

Releases need tasks and exchanges alone: `spark_context`. `spark_session` adds Spark's SQL, which takes as long to start
again.

The same drives a cluster: `spark.master` names it, and a run must be able to read the project's folder, this
interpreter's path and this code's folder under the same paths on every machine. Which address executors call the
driver back at is Spark's own choice (`SPARK_LOCAL_IP` overrules it).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from governance.errors import EnvironmentProblem
from governance.settings import Spark

if TYPE_CHECKING:
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

__all__ = ["spark_context", "spark_session"]


_SQL_SETTINGS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.adaptive.enabled": "true",
    "spark.sql.ansi.enabled": "true",
    "spark.sql.execution.arrow.maxRecordsPerBatch": "65536",
    "spark.sql.parquet.compression.codec": "zstd",
    "spark.sql.legacy.parquet.nanosAsLong": "true",
}
_MARK = "spark.sql.hedgerow.session"
_OURS = "spark.hedgerow.started"
_VALUES_IN_LOGS = ("SQLQueryContextLogger", "DataFrameQueryContextLogger")


def spark_context(settings: Spark) -> SparkContext:
    """Starts Spark, or gives the one that runs.

    Raises:
        EnvironmentProblem: Java is missing or too old, or the Spark that runs keeps a UI or an event log, which would
            show exact counts.
    """
    from pyspark import SparkConf, SparkContext
    from pyspark.errors import PySparkException

    active = SparkContext._active_spark_context  # noqa: SLF001 - `getOrCreate` would start one that is not quiet
    if active is not None:
        if not active.getConf().contains(_OURS):
            _check_quiet(active)
        return active
    conf = SparkConf().setAppName("hedgerow").setMaster(settings.master)
    for name, value in _start_settings(settings).items():
        conf.set(name, value)
    try:
        with _silent_children():
            context = SparkContext(conf=conf)
    except (PySparkException, OSError, RuntimeError) as error:
        raise EnvironmentProblem(
            f"Spark does not start ({type(error).__name__}); run 'hedgerow doctor' to check Java, memory and disk"
        ) from None
    context.setLogLevel("OFF")
    # Workers run this interpreter, with its packages; PYSPARK_PYTHON is the environment's, which is not ours to set.
    context.pythonExec = sys.executable
    return context


def spark_session(settings: Spark) -> SparkSession:
    """Spark's SQL beside `spark_context`, in a session of its own where somebody else started Spark.

    Raises:
        EnvironmentProblem: as `spark_context`.
    """
    _silence_query_errors()
    context = spark_context(settings)
    from pyspark.sql import SparkSession

    session = SparkSession.getActiveSession()
    if session is not None and session.conf.get(_MARK, ""):
        return session
    session = SparkSession.builder.getOrCreate()
    if not context.getConf().contains(_OURS):
        session = session.newSession()  # their SQL settings stay theirs
    for name, value in _SQL_SETTINGS.items():
        session.conf.set(name, value)
    session.conf.set("spark.sql.shuffle.partitions", str(settings.shuffle_partitions))
    session.conf.set(_MARK, "true")
    return session


def _start_settings(settings: Spark) -> dict[str, str]:
    quiet = {
        _OURS: "true",
        "spark.driver.memory": settings.driver_memory,
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.eventLog.enabled": "false",
        "spark.log.level": "OFF",
        "spark.driver.extraJavaOptions": "-XX:+UseParallelGC -XX:ReservedCodeCacheSize=256m",
    }
    if settings.master.startswith("local"):
        return quiet | {"spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1"}
    return quiet | _cluster_settings(settings)


def _cluster_settings(settings: Spark) -> dict[str, str]:
    """What executors need: memory, silence, and the folder that this code is imported from."""
    here = Path(__file__).resolve()
    return {
        "spark.executor.memory": settings.executor_memory,
        "spark.executor.extraJavaOptions": f"-Dlog4j2.configurationFile=file:{here.with_name('quiet.properties')}",
        "spark.executorEnv.PYTHONPATH": str(here.parents[2]),
    }


def _check_quiet(context: SparkContext) -> None:
    """Refuses a Spark that somebody else started and that would show exact counts."""
    conf = context.getConf()
    for setting in ("spark.ui.enabled", "spark.eventLog.enabled"):
        if conf.get(setting, "true" if setting == "spark.ui.enabled" else "false") == "true":
            raise EnvironmentProblem(
                f"the Spark that runs here has {setting}=true, which would show exact counts; stop it, or start it "
                f"with {setting}=false"
            )


def _silence_query_errors() -> None:
    """PySpark logs failed queries from Python, with the values they failed on; those loggers are switched off."""
    from pyspark.logger import PySparkLogger

    for name in _VALUES_IN_LOGS:
        PySparkLogger.getLogger(name).disabled = True


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
