"""Runs Feast's own published online-store tests on the packed stores.

    python -m tests.support.feast_published <checkout of feast>/sdk/python [test files and pytest options]

Feast's tests are part neither of this repository nor of Feast's distributions: they come from a checkout of
github.com/feast-dev/feast, whose version should be the installed one's. They take their stores from a module that
`FULL_REPO_CONFIGS_MODULE` names; here one is written for each packed store, and Redis is started for it. What else they
need is installed into a folder of its own. tests/integration/test_feast_published.py does all of it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.redis import redis_server

ROOT = Path(__file__).parents[2]
NEEDED = ("pytest-asyncio", "assertpy", "minio", "python-keycloak")
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


def run(checkout: str, options: Sequence[str] = ()) -> dict[str, int]:
    """Runs the tests on each store; gives pytest's exit codes.

    Args:
        checkout: of Feast, its `sdk/python`.
        options: test files and options of pytest; none: those of online stores.
    """
    with redis_server() as address, TemporaryDirectory() as folder:
        codes = {}
        # Without the sources beside them: what is tested is the Feast that is installed.
        alone = Path(folder, "published")
        shutil.copytree(Path(checkout, "tests"), alone / "tests")
        packages = Path(folder, "packages")
        install = [sys.executable, "-m", "pip", "install", "-q", "-c", str(ROOT / "constraints.txt"), "--target"]
        subprocess.run([*install, str(packages), *NEEDED], check=True)
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
            found = [str(alone), folder, str(ROOT), os.environ.get("PYTHONPATH", ""), str(packages)]
            paths = os.pathsep.join(found)
            command = [sys.executable, "-m", "pytest", "-q", "--integration", "-p", "no:cacheprovider"]
            command += [
                "-p",
                "feast_absent",
                "-k",
                "not dynamo",
                "-c",
                str(Path(folder, "pytest.ini")),
                "--rootdir",
                str(alone),
            ]
            done = subprocess.run(
                [*command, *(options or TESTS)],
                cwd=alone,
                env={**os.environ, "PYTHONPATH": paths, "FULL_REPO_CONFIGS_MODULE": module.stem, "IS_TEST": "True"},
                check=False,
            )
            codes[name] = done.returncode
        return codes


if __name__ == "__main__":
    sys.exit(max(run(sys.argv[1], sys.argv[2:]).values()))
