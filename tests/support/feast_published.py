"""Runs Feast's own published online-store tests on the packed stores.

    pip install pytest-asyncio assertpy minio python-keycloak
    python -m tests.support.feast_published <checkout of feast>/sdk/python [test files and pytest options]

Feast's tests are not part of this repository: they come from a checkout of github.com/feast-dev/feast, whose version
should be the installed one's. They take their stores from a module that `FULL_REPO_CONFIGS_MODULE` names; here one is
written for each packed store, and Redis is started for it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.redis import redis_server

ROOT = Path(__file__).parents[2]
TESTS = (
    "tests/integration/online_store/test_universal_online.py",
    "tests/integration/online_store/test_push_features_to_online_store.py",
)
STORES = {
    "sqlite": {"type": "featurestore.online.packed_sqlite.PackedSqliteOnlineStore", "path": "{folder}/online.db"},
    "redis": {
        "type": "featurestore.online.packed_redis.PackedRedisOnlineStore",
        "connection_string": "{address}",
    },
}


def main() -> None:
    """Runs the tests on each store; the exit code is the worst."""
    checkout, *options = sys.argv[1:]
    with redis_server() as address, TemporaryDirectory() as folder:
        codes = []
        Path(folder, "pytest.ini").write_text("[pytest]\nasyncio_mode = auto\n")  # Feast's own wants more plugins
        shutil.copy(Path(__file__).with_name("feast_absent.py"), folder)
        for name, section in STORES.items():
            store = {key: value.format(folder=folder, address=address) for key, value in section.items()}
            module = Path(folder, f"packed_{name}.py")
            module.write_text(
                "from tests.universal.feature_repos.universal.data_sources.file import FileDataSourceCreator\n"
                'AVAILABLE_OFFLINE_STORES = [("local", FileDataSourceCreator)]\n'
                f"AVAILABLE_ONLINE_STORES = {{{name!r}: ({store!r}, None)}}\n"
            )
            paths = os.pathsep.join([checkout, folder, str(ROOT), os.environ.get("PYTHONPATH", "")])
            command = [sys.executable, "-m", "pytest", "-q", "--integration", "-p", "no:cacheprovider"]
            command += [
                "-p",
                "feast_absent",
                "-k",
                "not dynamo",
                "-c",
                str(Path(folder, "pytest.ini")),
                "--rootdir",
                checkout,
            ]
            done = subprocess.run(
                [*command, *(options or TESTS)],
                cwd=checkout,
                env={**os.environ, "PYTHONPATH": paths, "FULL_REPO_CONFIGS_MODULE": module.stem, "IS_TEST": "True"},
                check=False,
            )
            codes.append(done.returncode)
    sys.exit(max(codes))


if __name__ == "__main__":
    main()
