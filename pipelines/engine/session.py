"""One Spark session, quiet: no UI, no event log, no log lines, so that exact intermediate counts show nowhere.

The same session drives a cluster: `spark.master` names it, and a run must be able to read the project's folder, this
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
    from pyspark.sql import SparkSession

__all__ = ["spark_session"]


_SQL_SETTINGS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.adaptive.enabled": "true",
    "spark.sql.ansi.enabled": "true",
    "spark.sql.execution.arrow.maxRecordsPerBatch": "65536",
    "spark.sql.parquet.compression.codec": "zstd",
    "spark.sql.legacy.parquet.nanosAsLong": "true",
}
_MARK = "spark.sql.hedgerow.session"
_VALUES_IN_LOGS = ("SQLQueryContextLogger", "DataFrameQueryContextLogger")


def spark_session(settings: Spark) -> SparkSession:
    """Starts Spark, or gives a session of the one that runs.

    Raises:
        EnvironmentProblem: Java is missing or too old, or the Spark that runs keeps a UI or an event log, which would
            show exact counts.
    """
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    _silence_query_errors()
    active = SparkSession.getActiveSession()
    if active is not None:
        return active if active.conf.get(_MARK, "") else _own_session(active, settings)
    builder = (
        SparkSession.builder.appName("hedgerow")
        .master(settings.master)
        .config("spark.driver.memory", settings.driver_memory)
        .config("spark.ui.enabled", False)
        .config("spark.ui.showConsoleProgress", False)
        .config("spark.eventLog.enabled", False)
        .config("spark.log.level", "OFF")
        .config("spark.driver.extraJavaOptions", "-XX:+UseParallelGC -XX:ReservedCodeCacheSize=256m")
    )
    if settings.master.startswith("local"):
        builder = builder.config("spark.driver.bindAddress", "127.0.0.1").config("spark.driver.host", "127.0.0.1")
    else:
        for name, value in _cluster_settings(settings).items():
            builder = builder.config(name, value)
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
    return _configured(session, settings)


def _cluster_settings(settings: Spark) -> dict[str, str]:
    """What executors need: memory, silence, and the folder that this code is imported from."""
    here = Path(__file__).resolve()
    return {
        "spark.executor.memory": settings.executor_memory,
        "spark.executor.extraJavaOptions": f"-Dlog4j2.configurationFile=file:{here.with_name('quiet.properties')}",
        "spark.executorEnv.PYTHONPATH": str(here.parents[2]),
    }


def _own_session(active: SparkSession, settings: Spark) -> SparkSession:
    """A session beside somebody else's, in the same Spark: their SQL settings stay theirs."""
    context = active.sparkContext.getConf()
    for setting in ("spark.ui.enabled", "spark.eventLog.enabled"):
        if context.get(setting, "true" if setting == "spark.ui.enabled" else "false") == "true":
            raise EnvironmentProblem(
                f"the Spark that runs here has {setting}=true, which would show exact counts; stop it, or start it "
                "with "
                f"{setting}=false"
            )
    return _configured(active.newSession(), settings)


def _configured(session: SparkSession, settings: Spark) -> SparkSession:
    for name, value in _SQL_SETTINGS.items():
        session.conf.set(name, value)
    session.conf.set("spark.sql.shuffle.partitions", str(settings.shuffle_partitions))
    session.conf.set(_MARK, "true")
    return session


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
