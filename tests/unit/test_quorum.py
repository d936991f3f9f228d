"""Who has to answer for a round to count, what becomes of an answer that is late, and who is told of it."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from registry_in_memory import Kept

from client.federation.outbox import Outbox
from configs.schema import CoordinatorConfig
from models.bounds import Bounds, distance
from models.bundle import Bundle
from models.errors import BorderRefused, ConfigurationError
from models.exchange import Consent, Decision, Evidence, Offer, Proposal, TrainOrder, Update, belongs, check_answer
from models.hyperparameters import Hyperparameters
from scripts.retrain_commands import told
from server import plan as plans
from server import retraining
from server.coordinator import Coordinator, create
from server.journal import read
from server.messaging import Failure
from server.participation import contributed, participation
from server.release import decide

SITES = ("alpha", "beta", "gamma")
BASE = "b" * 64
WIDE = Bounds(10.0)


class Hospitals:
    """Each adds its step to what it receives; `behave[site, round]` is `late` or a code. Outboxes are the real ones."""

    def __init__(self, folder: Path, behave: dict[tuple[str, int], str], cases: int = 20) -> None:
        self.folder, self.behave, self.cases = folder, behave, cases
        self.trained: list[tuple[str, int]] = []

    def wait_for(self, names: list[str], timeout: float) -> dict[str, int]:
        return dict.fromkeys(names, 1)

    def send_and_receive(self, orders: dict[str, Any], timeout: float) -> SimpleNamespace:
        results = {site: self._answer(site, order) for site, order in orders.items()}
        for site, found in results.items():
            if not isinstance(found, Failure):
                assert belongs(found, orders[site])
                check_answer(found, orders[site])
        return SimpleNamespace(results=results, seconds=0.1)

    def _answer(self, site: str, order: Any) -> Any:
        if isinstance(order, Proposal):
            return Consent(retraining=order.retraining, digest=order.digest, state="granted", reasons=("person",))
        if isinstance(order, Offer):
            return Evidence(retraining=order.retraining, digest=order.digest, verdict="shadow")
        if not isinstance(order, TrainOrder):
            return Decision(retraining=order.retraining, digest=order.digest, outcome="shadow")
        how = self.behave.get((site, order.round), "")
        if how not in ("", "late"):
            return Failure(how)
        outbox = Outbox(self.folder / site, order.retraining)
        update = outbox.find(order, order.bounds) or outbox.late(order, order.bounds)
        if update is None:
            self.trained.append((site, order.round))
            step = np.float32(0.01 * (SITES.index(site) + 1))
            weights = {name: np.asarray(value + step) for name, value in order.weights.items()}
            update = Update(retraining=order.retraining, round=order.round, base=order.base, n_cases=self.cases,
                            train_loss=0.5, weights=weights)  # fmt: skip
        outbox.put(order, update, order.bounds)
        return Failure("silent") if how == "late" else update


@pytest.fixture
def conducted(_sealed: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Carry a retraining out: `conducted({(site, round): how}, cases=…, **fields of the plan)`.

    What comes out of the rounds is not looked at: no network is built of it.
    """
    monkeypatch.setitem(sys.modules, "server.candidate", SimpleNamespace(make=lambda *_: _sealed))

    def go(behave: dict[tuple[str, int], str], cases: int = 20, **fields: Any) -> SimpleNamespace:
        coordinator: Coordinator = create(tmp_path / "coordinator", CoordinatorConfig())
        coordinator.__dict__["registry"] = registry = Kept(_sealed)
        monkeypatch.setattr(retraining, "Coordinator", lambda _: coordinator)
        usual = {"name": "spring", "base": "brightness@1", "sites": SITES, "quorum": 2, "rounds": 3, "norm": 100.0}
        folder = plans.save(plans.Plan(**(usual | {"hyper": Hyperparameters(steps=1)} | fields)), coordinator.folder)
        hospitals = Hospitals(tmp_path / "hospitals", behave, cases)
        found = SimpleNamespace(hospitals=hospitals, folder=folder, registry=registry, lines=lambda: list(read(folder)))
        try:
            retraining.conduct(hospitals, coordinator.folder, "spring")
        except retraining.QuorumMissed as error:
            found.missed = str(error)
        return found

    return go


def test_a_rehearsal_ends_with_its_rounds_and_makes_no_version(conducted: Callable[..., Any]) -> None:
    found = conducted({}, hyper=Hyperparameters(steps=0))
    steps = [line["step"] for line in found.lines()]
    assert steps.count("round") == 3
    assert steps[-1] == "finished"
    assert not {"candidate", "evidence", "release-gate", "decisions"} & set(steps)
    assert not found.registry.lineage
    assert "rehearsal" in told(found.lines()[-1])


def test_a_late_update_is_part_of_the_next_round_and_everybody_is_told(conducted: Callable[..., Any]) -> None:
    found = conducted({("gamma", 1): "late"})
    rounds = {line["round"]: line for line in found.lines() if line["step"] == "round"}
    assert rounds[1]["failures"] == {"gamma": "silent"}
    assert rounds[2]["sites"]["gamma"]["late"] == 1
    # what it had trained was not trained again, and what it measured was of other weights
    assert [number for site, number in found.hospitals.trained if site == "gamma"] == [1, 3]
    assert found.registry.lineage["took-part.gamma"] == "2 of 3 rounds; round 1 late"
    assert found.registry.lineage["took-part.alpha"] == "3 of 3 rounds"
    assert "gamma late, of round 1" in told(rounds[2])
    assert "gamma: silent" in told(rounds[1])
    gate = next(line for line in found.lines() if line["step"] == "release-gate")
    assert not [reason for reason in gate["reasons"] if "composition" in reason]
    # each round: the mean of what was changed, the late change on top of what the others had made by then
    moved = np.load(found.folder / "round-0003.npz")
    before = found.registry.bundles[found.registry.find("brightness@1").digest].read_weights()
    name = next(iter(before))
    expected = (0.01 + 0.02) / 2 + (0.01 + 0.02 + 0.03) / 3 * 2
    assert np.allclose(moved[name] - before[name], expected, atol=1e-5)


@pytest.mark.parametrize(("strategy", "late"), [({"name": "fedavg"}, True), ({"name": "qfair"}, False)])
def test_a_strategy_that_needs_the_rounds_own_updates_waits_for_none(conducted, strategy, late) -> None:
    found = conducted({("gamma", 1): "late"}, strategy=strategy)
    second = [line for line in found.lines() if line["step"] == "round"][1]
    assert ("late" in second["sites"]["gamma"]) == late


def test_who_drops_out_between_rounds_blocks_the_release(conducted: Callable[..., Any]) -> None:
    found = conducted({("gamma", 2): "consent-missing", ("beta", 3): "late"})
    assert found.registry.lineage["took-part.gamma"] == "2 of 3 rounds; round 2: consent-missing"
    gate = next(line for line in found.lines() if line["step"] == "release-gate")
    changed = [reason for reason in gate["reasons"] if "composition" in reason]
    assert changed == [
        "composition changed: beta trained, but not in round 3",
        "composition changed: gamma trained, but not in round 2",
    ]


def test_who_agreed_and_never_trained_blocks_it_too() -> None:
    rounds = [("alpha", "beta"), ("alpha", "beta")]
    reasons = decide({}, SITES, 2, rounds=rounds, agreed=SITES, named=("gamma",)).reasons
    assert "composition changed: gamma agreed, and trained in no round" in reasons
    assert "quorum: gamma has to report, and did not" in reasons
    assert not [one for one in decide({}, SITES, 2, rounds=rounds, agreed=SITES[:2]).reasons if "composition" in one]


@pytest.mark.parametrize(
    ("behave", "fields", "said"),
    [
        ({("beta", 1): "silent", ("gamma", 1): "failed"}, {}, "1 of 3 hospitals answered, 2 are needed"),
        ({("gamma", 1): "absent"}, {"quorum_sites": ("gamma",)}, "gamma did not answer, and has to"),
        ({("gamma", 1): "absent"}, {"quorum_cases": 41}, "the answers rest on 40 cases, 41 are needed"),
    ],
)
def test_a_round_without_its_quorum_stops_and_says_what_it_lacks(conducted, behave, fields, said) -> None:
    found = conducted(behave, **fields)
    assert said in found.missed
    steps = [line["step"] for line in found.lines()]
    assert steps[-2:] == ["quorum-missed", "ended"]
    assert said in told(found.lines()[-1])
    # it can be resumed once they are back
    again = conducted({}, **fields)
    assert again.lines()[-1]["step"] == "finished"


def test_a_quorum_names_hospitals_of_the_plan() -> None:
    with pytest.raises(ConfigurationError, match="delta"):
        plans.Plan(name="x", base="m@1", sites=SITES, quorum=1, quorum_sites=("delta",))


def test_the_journal_of_several_attempts_is_read_as_one() -> None:
    asked = {"step": "started", "sites": list(SITES)}
    waiting = {"step": "consent", "site": "gamma", "state": "waiting", "reasons": ["no-policy"]}
    first = {"step": "round", "round": 1, "sites": {"alpha": {}}, "failures": {"beta": "silent"}}
    second = {"step": "round", "round": 2, "sites": {"alpha": {}, "beta": {"late": 1}}, "failures": {}}
    lines = [asked, waiting, first, asked, second]
    assert {site: found.told(2) for site, found in participation(lines).items()} == {
        "alpha": "2 of 2 rounds",
        "beta": "1 of 2 rounds; round 1 late",
        "gamma": "waiting (no-policy)",
    }
    assert contributed(lines) == [{"alpha", "beta"}, {"alpha", "beta"}]


# ── The hospital's outbox ────────────────────────────────────────────────────────────────────────────────────────────


def order(number: int = 1, value: float = 0.0, **fields: Any) -> TrainOrder:
    weights = {"a.weight": np.full((3, 2), value, np.float32), "count": np.array(3, np.int64)}
    return TrainOrder(**({"retraining": "r", "round": number, "base": BASE, "hyper": Hyperparameters(),
                          "weights": weights} | fields))  # fmt: skip


def update(number: int = 1, value: float = 0.5, **fields: Any) -> Update:
    weights = {"a.weight": np.full((3, 2), value, np.float32), "count": np.array(3, np.int64)}
    return Update(**({"retraining": "r", "round": number, "base": BASE, "n_cases": 20, "train_loss": 0.1 + 0.2,
                      "auc_received": 0.7, "weights": weights} | fields))  # fmt: skip


def test_the_same_order_has_the_same_answer_and_another_has_none(tmp_path: Path) -> None:
    box = Outbox(tmp_path, "r")
    assert box.find(order(), WIDE) is None
    box.put(order(), update(), WIDE)
    found = Outbox(tmp_path, "r").find(order(), WIDE)
    assert found is not None
    assert found.to_record()["vigie"] == update().to_record()["vigie"]
    assert all(np.array_equal(value, update().weights[name]) for name, value in found.weights.items())
    assert found.weights["count"].dtype == np.int64
    assert box.find(order(value=1.0), WIDE) is None
    assert box.find(order(seed=7), WIDE) is None
    assert box.find(order(), Bounds(0.1)) is None  # the hospital lets less out by now
    # half a file is no answer
    (path,) = (tmp_path / "r" / "outbox").glob("*.npz")
    path.write_bytes(path.read_bytes()[:300])
    assert box.find(order(), WIDE) is None
    box.finish()
    assert not (tmp_path / "r" / "outbox").exists()


def test_a_late_answer_is_carried_over_once_and_within_the_bound(tmp_path: Path) -> None:
    box = Outbox(tmp_path, "r")
    box.put(order(1, 0.0), update(1, 0.5), WIDE)
    # the next round has moved on by 2; the change of 0.5 goes on top
    following = order(2, 2.0, late=1)
    found = box.late(following, WIDE)
    assert found is not None
    assert (found.round, found.late, found.auc_received) == (2, 1, None)
    assert np.allclose(found.weights["a.weight"], 2.5)
    check_answer(found, following)
    assert belongs(found, following)
    assert not belongs(found, order(2, 2.0))  # nobody had said that it was still waited for
    short = box.late(order(2, 2.0, late=1, norm=0.1), Bounds(0.1))
    assert short is not None
    assert distance(short.weights, following.weights) <= 0.1 * (1 + 1e-6)
    # somebody has objected since: it was trained with their images
    assert box.late(following, WIDE, "a patient more") is None
    # of another base, another round, or late already: not any more
    assert box.late(order(2, 2.0, late=1, base="c" * 64), WIDE) is None
    assert box.late(order(3, 2.0, late=2), WIDE) is None
    box.put(following, found, WIDE)
    assert box.late(order(3, 2.0, late=2), WIDE) is None
    assert box.late(order(3, 2.0), WIDE) is None


def test_only_an_earlier_round_is_waited_for() -> None:
    from pydantic import ValidationError

    with pytest.raises((ValidationError, BorderRefused)):
        order(2, late=2)
