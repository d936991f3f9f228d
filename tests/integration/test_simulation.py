"""Made-up hospitals on Flower's simulation engine are as real ones: each its own consent, ledger and weights."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from client.federation import trainer
from client.store.site import Site
from configs.schema import save
from models.bundle import verify
from models.errors import ConfigurationError
from scripts.simulation.loop import Settings, prepare
from server import journal
from server.aggregation import Aggregation
from server.plan import load

ROOT = Path(__file__).parents[2]
HOSPITALS, UNWILLING = 4, "hospital-3"


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = ["-m", "scripts.vigie", "retrain", "simulate", "trial", "--folder", folder, "--hospitals", HOSPITALS]
    return subprocess.run(
        [sys.executable, *map(str, command), *words], capture_output=True, text=True, check=False, cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip


@pytest.mark.integration
def test_each_hospital_is_itself_and_the_weights_are_those_without_an_engine(tmp_path: Path) -> None:
    folder = tmp_path / "simulation"
    coordinator = prepare(Settings(folder, "trial", hospitals=HOSPITALS, patients=40), print)
    unwilling = Site(folder / "hospitals" / UNWILLING)
    unwilling.config.privacy.required = True
    save(unwilling.config, unwilling.folder / "site.yaml")

    done = run(folder, "rounds=2", "hyper.steps=2", "hyper.batch_size=8", "quorum=3")

    assert done.returncode == 0, done.stdout + done.stderr
    lines = {line["step"]: line for line in journal.read(coordinator.folder / "retrainings" / "trial")}
    willing = [f"hospital-{number}" for number in range(1, HOSPITALS + 1) if f"hospital-{number}" != UNWILLING]
    assert lines["consents"]["granted"] == willing
    assert lines["consents"]["declined"] == {UNWILLING: ["not-private"]}
    assert list(lines["round"]["sites"]) == list(lines["decisions"]["decisions"]) == willing
    for name in willing:
        asked, crossed = crossings(folder / "hospitals" / name)[:-8], crossings(folder / "hospitals" / name)[-8:]
        assert set(asked) == {"in proposal", "out consent"}  # more than once where the engine starts slowly
        assert crossed == [
            "in train", "out update", "in train", "out update",
            "in offer", "out evidence", "in release", "out decision",
        ]  # fmt: skip
    assert set(crossings(unwilling.folder)) == {"in proposal", "out consent"}

    plan = load(coordinator.folder, "trial").model_copy(update={"sites": tuple(willing)})
    base = verify(folder / "vendor" / "bundle", coordinator.trusted)
    aggregation = Aggregation(plan, base.digest, base.facts, base.read_weights())
    copies = {name: Site(Path(shutil.copytree(folder / "hospitals" / name, tmp_path / name))) for name in willing}
    for number in (1, 2):
        updates = {name: trainer.train(copies[name], aggregation.order(number, name)) for name in willing}
        aggregation.take(updates)
        simulated = journal.Journal(coordinator.folder / "retrainings" / "trial").load_weights(number)
        assert all(np.array_equal(simulated[name], value) for name, value in aggregation.weights.items())
    for site in (unwilling, *copies.values()):
        site.database.close()


def test_a_simulation_takes_the_place_of_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("the only copy")
    with pytest.raises(ConfigurationError, match="not a simulation"):
        prepare(Settings(tmp_path, "trial"), print)
    assert (tmp_path / "thesis.tex").read_text() == "the only copy"


def crossings(folder: Path) -> list[str]:
    site = Site(folder)
    assert site.ledger.first_break() is None
    rows = [json.loads(entry.facts) for entry in site.ledger.entries("border.crossed")]
    site.database.close()
    return [f"{row['direction']} {row['kind']}" for row in rows]
