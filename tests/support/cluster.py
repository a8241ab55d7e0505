"""A real standalone Spark cluster on loopback: one master and some workers, by Spark's own classes."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pyspark

HOME = Path(pyspark.__file__).parent
LOOPBACK = "127.0.0.1"
_STARTED_WITHIN_SECONDS = 240


def environment(host: str = LOOPBACK) -> dict[str, str]:
    """What Spark's processes need to stay on loopback."""
    [library] = (HOME / "jars").glob("scala-library-*.jar")
    scala = ".".join(library.stem.removeprefix("scala-library-").split(".")[:2])  # Spark's scripts would set it
    return {**os.environ, "SPARK_HOME": str(HOME), "SPARK_LOCAL_IP": host, "SPARK_SCALA_VERSION": scala}


@contextmanager
def standalone_cluster(folder: Path, *, workers: int = 2, memory: str = "1g") -> Iterator[str]:
    """Starts a master and workers of one core each, each on a host of its own (speculation needs two).

    Yields:
        The master's URL, once every worker has registered.
    """
    folder.mkdir(parents=True)
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port = probe.getsockname()[1]
    url = f"spark://{LOOPBACK}:{port}"
    with ExitStack() as stack:
        master = ["org.apache.spark.deploy.master.Master", "--host", LOOPBACK, "--port", str(port), "--webui-port", "0"]
        log = _start(stack, master, folder / "master.log", LOOPBACK)
        _wait(log, "I have been elected leader", 1)
        for index in range(workers):
            host = f"127.0.0.{index + 2}"
            options = ["--host", host, "--cores", "1", "--memory", memory, "--webui-port", "0"]
            work = ["--work-dir", str(folder / f"work-{index}")]
            worker = ["org.apache.spark.deploy.worker.Worker", *options, *work, url]
            _start(stack, worker, folder / f"worker-{index}.log", host)
        _wait(log, "Registering worker", workers)
        yield url


def _start(stack: ExitStack, arguments: list[str], log: Path, host: str) -> Path:
    java = shutil.which("java") or "java"
    command = [java, "-Xmx256m", "-XX:+UseSerialGC", "-cp", f"{HOME / 'jars'}/*", *_OPENS, *arguments]
    sink = stack.enter_context(log.open("wb"))
    process = stack.enter_context(subprocess.Popen(command, stdout=sink, stderr=sink, env=environment(host)))
    stack.callback(process.terminate)
    return log


def _wait(log: Path, words: str, times: int) -> None:
    deadline = time.monotonic() + _STARTED_WITHIN_SECONDS
    while log.read_text(errors="replace").count(words) < times:
        if time.monotonic() > deadline:
            raise TimeoutError(f"Spark's cluster did not start:\n{log.read_text(errors='replace')[-3000:]}")
        time.sleep(0.2)


_OPENS = [
    f"--add-opens=java.base/{package}=ALL-UNNAMED"
    for package in (
        "java.lang",
        "java.lang.invoke",
        "java.io",
        "java.net",
        "java.nio",
        "java.util",
        "java.util.concurrent",
        "sun.nio.ch",
        "sun.nio.cs",
        "sun.util.calendar",
    )
]
