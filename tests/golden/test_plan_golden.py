"""Plans as JSON, for a fixed project: what `hedgerow plan --json` emits for each signal.

`UPDATE_GOLDEN=1 pytest tests/golden/test_plan_golden.py` writes them anew; read the difference. Numbers are compared to
nine digits: the last ones depend on the machine's mathematics library.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from governance.ledger import Ledger
from governance.privacy import PrivacyLoss
from governance.settings import Account, Settings
from pipelines import Signal
from pipelines.plan import plan_signal
from tests.golden.test_compiled_golden import EVENTS_APPROX, GENRE_SECONDS, USER_DAYS

FOLDER = Path(__file__).parent


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """A project without a signals folder, without data, without state."""
    cap = PrivacyLoss.of("0.1", "1e-6")
    units = ("user_id", "user_id/day", "shop+receipt")
    return Settings(
        root=tmp_path,
        name="golden",
        signals_dir=tmp_path / "signals",
        state_dir=tmp_path / "var",
        accounts=tuple(Account(dataset="plays", unit=unit, cap=cap) for unit in units),
    )


def rounded(value: Any) -> Any:
    """Floats to nine digits, everything else as it is."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [rounded(item) for item in value]
    return float(f"{value:.9g}") if isinstance(value, float) else value


@pytest.mark.parametrize("signal", [GENRE_SECONDS, USER_DAYS, EVENTS_APPROX], ids=lambda signal: signal.name)
def test_plan(signal: Signal, settings: Settings, tmp_path: Path) -> None:
    plan = plan_signal(signal, settings)
    with Ledger(tmp_path / "elsewhere.db") as ledger:
        found = rounded(plan.to_json(ledger.balance(plan.account)))
    path = FOLDER / f"plan_{signal.name}.json"
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    # `loss` holds exact decimals as text; a calibrated rho is a float, and its last digits are the machine's.
    golden = json.loads(path.read_text(encoding="utf-8"))
    assert float(found.pop("loss")["rho"]) == pytest.approx(float(golden.pop("loss")["rho"]), rel=1e-9)
    remaining, known = (document["account"].pop("remaining") for document in (found, golden))
    assert remaining == known
    assert found == golden
