"""Whoever is killed in a round whose updates are summed: it ends with the same hospitals, and with one sum a round."""

import json

import numpy as np
import pytest
from crashing import Crashing, copied, report

from client.federation import trainer
from models import masks
from models.group import Group
from server.aggregation import Aggregation
from server.plan import Plan

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]
SITES = ("alpha", "beta", "gamma")
KILLS = [
    ("after-training1-alpha", "trainer"),
    ("before-ask-mask1", "serverapp"),
    ("before-reply-masked1-gamma", "clientapp"),
    ("before-reply-unmasked1-alpha", "supernode"),
    ("after-journal-masked2", "serverapp"),
]


@pytest.fixture(scope="module")
def crashing(tmp_path_factory, residual, radiograph, vendor_key, bundles):
    live = Crashing(tmp_path_factory.mktemp("summed-crashes"), residual, SITES)
    try:
        live.start(radiograph, vendor_key, bundles)
        yield live
    finally:
        live.stop()


def test_whoever_is_killed_a_round_has_one_sum_and_all_hospitals_are_in_it(crashing):
    for point, _ in KILLS:
        crashing.arm(point)
    ending = crashing.launch("spring", privacy="secure_aggregation")
    for point, kind in KILLS:
        assert crashing.wait_at(point, ending), f"ended before {point}: {report(crashing, 'spring')}"
        site = next((name for name in SITES if point.endswith(name)), SITES[0])
        assert crashing.kill(kind, site), f"no {kind} at {point}"
        crashing.release(point)
    status = ending.process.wait(300)
    crashing.disarm()
    assert status == 0, report(crashing, "spring")

    lines = crashing.journal("spring")
    assert lines[-1]["step"] == "finished"
    done = [line for line in lines if line["step"] == "round"]
    assert [(line["round"], list(line["sites"])) for line in done] == [(1, list(SITES)), (2, list(SITES))]
    attempts = {line["round"]: line["attempt"] for line in lines if line["step"] == "masked"}
    assert attempts == {1: 2, 2: 1}  # begun anew before its masked sum was journalled, gone on with after
    for site in crashing.sites.values():
        told = [json.loads(entry.facts) for entry in site.ledger.entries("retraining.summed")]
        assert [(facts["round"], facts["summed"]) for facts in told] == [(1, ", ".join(SITES)), (2, ", ".join(SITES))]
    for number in (1, 2):
        found, expected = crashing.weights("spring", number), in_the_open(crashing, number)
        for name, array in expected.items():
            assert np.allclose(found[name], array, rtol=1e-6, atol=6 * masks.step(3) * 5), (number, name)


def in_the_open(crashing, number):
    """The mean that the same trainings give where nothing is hidden and nobody is killed."""
    folder = crashing.coordinator.folder / "retrainings" / "spring"
    plan = Plan.model_validate_json((folder / "plan.json").read_text())
    base = crashing.base
    weights = crashing.weights("spring", number - 1) if number > 1 else None
    aggregation = Aggregation(plan, base.digest, base.facts, base.read_weights(), weights)
    line = next(line for line in crashing.journal("spring") if line["step"] == "group")
    keys, signatures = (tuple(bytes.fromhex(one) for one in line[key]) for key in ("keys", "signatures"))
    members, moved, total = Group(line["terms"], tuple(line["sites"]), keys), {}, 0.0
    for name, live in crashing.sites.items():
        copy = copied(live, crashing.folder / "copies" / f"{name}-{number}")
        update = trainer.train(copy, aggregation.group_order(number, name, 1, members, signatures))
        copy.database.close()
        share = update.n_cases**0.5
        total += share
        for layer, array in update.weights.items():
            step = share * (array.astype(np.float64) - aggregation.weights[layer])
            moved[layer] = moved.get(layer, 0.0) + step
    return {layer: aggregation.weights[layer] + step / total for layer, step in moved.items()}
