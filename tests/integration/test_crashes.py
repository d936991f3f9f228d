"""Whoever of a federation is killed, and at whatever step of a round: the retraining ends, with the same weights."""

import numpy as np
import pytest
from crashing import SITES, Crashing, report

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def crashing(tmp_path_factory, residual, radiograph, vendor_key, bundles):
    live = Crashing(tmp_path_factory.mktemp("crashes"), residual)
    try:
        live.start(radiograph, vendor_key, bundles)
        yield live
    finally:
        live.stop()


def disturb(crashing, name, kills, rounds=2):
    """Launch a retraining and kill at each point, in their order, a process of a kind; then see what came of it."""
    for point, _ in kills:
        crashing.arm(point)
    ending = crashing.launch(name, rounds)
    for point, kind in kills:
        assert crashing.wait_at(point, ending), f"ended before {point}: {report(crashing, name)}"
        site = next((name for name in SITES if point.endswith(name)), SITES[0])
        assert crashing.kill(kind, site), f"no {kind} at {point}"
        crashing.release(point)
    status = ending.process.wait(300)
    crashing.disarm()
    assert status == 0, report(crashing, name)
    lines = crashing.journal(name)
    assert lines[-1]["step"] == "finished"
    done = [line for line in lines if line["step"] == "round"]
    assert [line["round"] for line in done] == list(range(1, rounds + 1))
    assert [sorted(line["sites"]) for line in done] == [list(SITES)] * rounds
    expected = crashing.undisturbed(name)
    for number, weights in enumerate(expected, 1):
        found = crashing.weights(name, number)
        assert found.keys() == weights.keys()
        assert all(np.array_equal(found[layer], weights[layer]) for layer in weights), f"round {number}"
    return lines


def test_one_of_each_kind_is_killed_and_the_weights_are_those_of_the_undisturbed_run(crashing):
    disturb(
        crashing,
        "spring",
        [
            ("after-training1-alpha", "trainer"),
            ("after-training1-beta", "clientapp"),
            ("before-outbox1-beta", "mlflow"),
            ("before-reply-update1-alpha", "supernode"),
            ("before-journal-round1", "serverapp"),
            ("after-outbox2-beta", "superlink"),
        ],
    )


COORDINATOR = ("serverapp", "superlink", "mlflow")
HOSPITAL = ("supernode", "launcher", "clientapp", "trainer")
AT_THE_COORDINATOR = (
    "before-ask-proposal",
    "after-journal-consents",
    "before-ask-train1",
    "after-ask-train1",
    "after-weights1",
    "after-journal-round1",
    "after-ask-train2",
    "before-journal-candidate",
    "after-ask-offer",
    "before-journal-release-gate",
    "after-ask-release",
)
AT_A_HOSPITAL = (
    "before-reply-consent-alpha",
    "before-training1-alpha",
    "before-outbox1-alpha",
    "after-outbox1-alpha",
    "after-reply-update1-alpha",
    "before-training2-alpha",
    "before-reply-evidence-alpha",
    "before-reply-decision-alpha",
)
EVERY = [
    *((point, kind) for point in AT_THE_COORDINATOR for kind in (*COORDINATOR, "supernode", "launcher")),
    *((point, kind) for point in AT_A_HOSPITAL for kind in (*COORDINATOR, *HOSPITAL)),
]


@pytest.mark.exhaustive
@pytest.mark.parametrize(("point", "kind"), EVERY)
def test_whoever_is_killed_at_whatever_step(crashing, point, kind):
    disturb(crashing, f"{point}-{kind}"[:60], [(point, kind)])
