"""Rounds whose updates are only ever summed: who drops out, what is killed, what may be combined with it."""

import itertools
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import summing as support
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from registry_in_memory import Kept
from typer.testing import CliRunner

from client.federation import hospitals
from configs.schema import CoordinatorConfig, RetrainingConfig, compose
from models import masks
from models.errors import ConfigurationError
from models.exchange import GroupOrder, MaskOrder, UnmaskOrder
from scripts.retrain_commands import told
from scripts.site_commands import app
from server import plan as plans
from server import retraining, superlink
from server.consent import keys_of
from server.coordinator import create
from server.journal import read
from server.launch import plan_of
from server.plan import Plan, QuorumMissed
from server.privacy import protection_of
from server.superlink import RegisteredSite

FOUR = ("alpha", "beta", "delta", "gamma")
FIVE = ("alpha", "beta", "delta", "epsilon", "gamma")
NUMBERS = itertools.count()
STEPS = (GroupOrder, MaskOrder, UnmaskOrder)


@pytest.fixture
def four(make_site, bundles, vendor_key, tmp_path, monkeypatch):
    found = support.make(FOUR, make_site, bundles, vendor_key, tmp_path, monkeypatch)
    yield found
    for name in FOUR:
        found[name].site.database.close()


def close(found, expected, hospitals, norm=5.0):
    """Equal but for quantisation and the last bit of the tensor's own type."""
    for name, array in expected.items():
        bits = np.finfo(found[name].dtype).eps * np.abs(array).max() if found[name].dtype.kind == "f" else 0
        assert np.allclose(found[name], array, rtol=0, atol=hospitals * 2 * masks.step(hospitals) * norm + bits), name


@pytest.mark.parametrize("weighting", ["root", "site", "cases"])
def test_a_round_gives_the_mean_that_it_would_give_in_the_open(four, tmp_path, weighting):
    coordinator = four.agree(support.plan_of(FOUR, weighting=weighting), tmp_path / "r")

    summed, aggregation = coordinator.round()

    close(aggregation.weights, coordinator.in_the_open(FOUR), 4)
    assert summed.cases == {"alpha": 32, "beta": 64, "delta": 64, "gamma": 16}
    assert summed.figures.auc == pytest.approx(0.5 + (40 + 90 + 64 + 23) / 4000, abs=1e-3)
    assert (summed.figures.threshold, summed.figures.loss) == (0.25, 0.75)
    assert len(four.sent) == 4 + 3 * 4  # proposals, and three exchanges
    assert set(four["alpha"].left()) == {"consent", "sealed", "masked", "unmasked"}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_hospital_that_drops_out_at_any_step_costs_no_more_than_its_update(four, tmp_path, step, when):
    coordinator = four.agree(support.plan_of(FOUR), tmp_path / "r")
    four.fails = lambda site, order: when if site == "beta" and isinstance(order, step) else ""

    summed, aggregation = coordinator.round()

    left = FOUR if step is UnmaskOrder else tuple(name for name in FOUR if name != "beta")
    close(aggregation.weights, coordinator.in_the_open(left), 4)
    assert tuple(summed.cases) == left
    assert set(summed.failures) == set(FOUR) - set(left)
    four.fails = lambda site, order: ""
    following, aggregation = coordinator.round(2, coordinator.aggregation(aggregation.weights))
    assert tuple(following.cases) == FOUR  # it is back


@pytest.mark.parametrize("step", STEPS)
def test_two_that_drop_out_of_four_end_the_round_and_it_is_resumed(four, tmp_path, step):
    coordinator = four.agree(support.plan_of(FOUR, quorum=2), tmp_path / "r")
    four.fails = lambda site, order: "after" if site in ("beta", "gamma") and isinstance(order, step) else ""
    with pytest.raises(QuorumMissed):
        coordinator.round()

    four.fails = lambda site, order: ""
    summed, aggregation = coordinator.round()

    close(aggregation.weights, coordinator.in_the_open(FOUR), 4)
    assert tuple(summed.cases) == FOUR
    assert all(one.trainings == [(1, 1)] for one in four.hospitals.values())  # nobody has trained twice


class Killed(BaseException):
    """The coordinator's process."""


@pytest.mark.parametrize("calls", range(1, 4))
@pytest.mark.parametrize("answered", [False, True])
def test_a_coordinator_that_is_killed_goes_on_with_the_same_sum(four, tmp_path, calls, answered):
    coordinator = four.agree(support.plan_of(FOUR), tmp_path / "r")
    reached, count = four.send_and_receive, 0

    def dying(orders, timeout):
        nonlocal count
        count += 1
        if count == calls and not answered:
            raise Killed
        found = reached(orders, timeout)
        if count == calls:
            raise Killed
        return found

    four.send_and_receive = dying
    with pytest.raises(Killed):
        coordinator.round()
    four.send_and_receive = reached

    summed, aggregation = coordinator.round()

    close(aggregation.weights, coordinator.in_the_open(FOUR), 4)
    assert tuple(summed.cases) == FOUR
    sums = [list(one.site.ledger.entries("retraining.summed")) for one in four.hospitals.values()]
    assert [len(found) for found in sums] == [1] * 4  # whatever was killed, one sum alone was unmasked


def test_a_kill_before_the_unmasking_was_answered_unmasks_the_sum_that_was_journalled(four, tmp_path):
    """Who is dead stays dead, even if it could answer by now: else two sums would differ in that hospital."""
    coordinator = four.agree(support.plan_of(FOUR), tmp_path / "r")
    four.fails = lambda site, order: "after" if site == "beta" and isinstance(order, MaskOrder) else ""
    reached = four.send_and_receive

    def dying(orders, timeout):
        if any(isinstance(order, UnmaskOrder) for order in orders.values()):
            raise Killed
        return reached(orders, timeout)

    four.send_and_receive = dying
    with pytest.raises(Killed):
        coordinator.round()
    four.send_and_receive, four.fails = reached, lambda site, order: ""

    summed, _ = coordinator.round()

    assert tuple(summed.cases) == ("alpha", "delta", "gamma")


def test_the_same_question_has_the_same_answer_bit_for_bit(four, tmp_path):
    """Also after a kill between any two of them: the answers are on the disk before they leave."""
    coordinator = four.agree(support.plan_of(FOUR), tmp_path / "r")
    coordinator.round()
    asked = [(name, order) for name, order in four.sent if name == "alpha" and isinstance(order, STEPS)]

    for name, order in asked:
        first = four[name].border.answer(order.to_record())
        again = four[name].border.answer(order.to_record())
        assert support.exchange.fingerprint(first) == support.exchange.fingerprint(again)
    assert four["alpha"].trainings == [(1, 1)]


def test_a_whole_retraining_goes_on_after_a_kill_with_the_same_hospitals(
    four, tmp_path, monkeypatch, bundles, vendor_key
):
    """From the terms to the hospitals' decisions, killed in the second round after the masked updates have come."""
    coordinator = create(tmp_path / "coordinator", CoordinatorConfig())
    coordinator.__dict__["registry"] = registry = Kept(four.base)
    made = bundles.build(tmp_path / "made", vendor_key)
    monkeypatch.setattr(retraining, "Coordinator", lambda _: coordinator)
    monkeypatch.setitem(sys.modules, "server.candidate", SimpleNamespace(make=lambda *_: made))
    monkeypatch.setattr(support.served_by.candidate, "check", lambda *_: None)
    monkeypatch.setattr(support.served_by, "judge", support.judged)
    monkeypatch.setattr(support.served_by, "settle", support.settled)
    points = four.points()
    sites = {name: RegisteredSite(name, number, "0" * 64, point=points[name]) for number, name in enumerate(FOUR)}
    superlink.write_sites(coordinator.folder, sites)
    four.trust(coordinator.folder / "signing.pub")
    plans.save(support.plan_of(FOUR, rounds=2, consent_seconds=0), coordinator.folder)
    reached = four.send_and_receive

    def dying(orders, timeout):
        if any(isinstance(order, UnmaskOrder) and order.round == 2 for order in orders.values()):
            raise Killed
        return reached(orders, timeout)

    four.send_and_receive = dying
    with pytest.raises(Killed):
        retraining.conduct(four, coordinator.folder, "spring")
    four.send_and_receive = reached
    retraining.conduct(four, coordinator.folder, "spring")

    lines = list(read(coordinator.folder / "retrainings" / "spring"))
    rounds = [line for line in lines if line["step"] == "round"]
    assert [(line["round"], list(line["sites"])) for line in rounds] == [(1, list(FOUR)), (2, list(FOUR))]
    assert all(one.trainings == [(1, 1), (2, 1)] for one in four.hospitals.values())
    assert all(told(line) for line in lines)
    assert "all together AUC 0.554" in told(rounds[0])
    assert registry.lineage["took-part.alpha"] == "2 of 2 rounds"
    assert registry.metrics["rounds/threshold_received"] == 0.25
    assert not any(one.startswith("rounds/alpha/") and "auc" in one for one in registry.metrics)
    assert lines[-1]["step"] == "finished"
    assert not list(four["alpha"].site.retrainings.glob("*/group"))


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whoever_drops_out_wherever_the_sum_is_of_those_who_are_left(four, tmp_path_factory, data):
    """Over drop-outs at each step: the mean of the rest, or a round that is missed and leaves the weights alone."""
    name = f"round-{next(NUMBERS)}"
    gone = {step: data.draw(st.sets(st.sampled_from(FOUR), max_size=2), label=step.kind) for step in STEPS}
    coordinator = four.agree(support.plan_of(FOUR, name=name), tmp_path_factory.mktemp("r"))
    four.fails = lambda site, order: "after" if site in gone.get(type(order), ()) else ""
    in_it = [site for site in FOUR if site not in gone[GroupOrder] | gone[MaskOrder]]
    helping = [site for site in in_it if site not in gone[UnmaskOrder]]
    try:
        if len(helping) < 3:
            with pytest.raises(QuorumMissed):
                coordinator.round()
            return
        summed, aggregation = coordinator.round()
        assert list(summed.cases) == in_it
        close(aggregation.weights, coordinator.in_the_open(in_it), 4)
    finally:
        four.fails = lambda site, order: ""


def test_three_hospitals_are_the_fewest_and_all_of_them_have_to_stay(
    make_site, bundles, vendor_key, tmp_path, monkeypatch
):
    names = ("alpha", "beta", "gamma")
    three = support.make(names, make_site, bundles, vendor_key, tmp_path, monkeypatch)
    coordinator = three.agree(support.plan_of(names), tmp_path / "r")
    _, aggregation = coordinator.round()
    close(aggregation.weights, coordinator.in_the_open(names), 3)
    three.fails = lambda site, order: "before" if site == "beta" else ""
    with pytest.raises(QuorumMissed):
        coordinator.round(2, coordinator.aggregation(aggregation.weights))
    with pytest.raises(ConfigurationError, match="3 to 200 hospitals"):
        support.plan_of(names[:2], quorum=2)


@pytest.mark.parametrize("times", [1, 2, 1000])
def test_one_of_three_that_is_lost_while_unmasking_is_asked_again_and_the_sum_waits_for_it(
    make_site, bundles, vendor_key, tmp_path, monkeypatch, times
):
    """Nothing is trained, or unmasked, twice; a person is told what to do."""
    names, asked = ("alpha", "beta", "gamma"), 0
    three = support.make(names, make_site, bundles, vendor_key, tmp_path, monkeypatch)
    coordinator = three.agree(support.plan_of(names), tmp_path / "r")

    def away(site, order):
        nonlocal asked
        if site != "gamma" or not isinstance(order, UnmaskOrder):
            return ""
        asked += 1
        return "before" if asked <= times else ""

    three.fails = away
    if times > 2:
        with pytest.raises(QuorumMissed, match=r"2 of 3 .*`vigie retrain resume spring` .* once gamma answers"):
            coordinator.round()
        missed = coordinator.journal.last("quorum-missed")
        assert missed["failures"] == {"gamma": "absent"}
        assert "launch another one without whoever is gone" in told(missed)
        three.fails = lambda site, order: ""

    summed, aggregation = coordinator.round()

    close(aggregation.weights, coordinator.in_the_open(names), 3)
    assert tuple(summed.cases) == names
    for one in three.hospitals.values():
        assert one.trainings == [(1, 1)]
        assert len(list(one.site.ledger.entries("retraining.summed"))) == 1


@pytest.mark.parametrize("name", ["median", "trimmed-mean", "krum", "qfair", "scaffold"])
def test_a_strategy_that_needs_each_update_is_refused_by_name(name):
    config = compose(
        "retraining", RetrainingConfig, [f"strategy={name}", "privacy=secure_aggregation", "name=n", "base=b@1"]
    )
    values = {"name": "n", "base": "b@1", "sites": FIVE, "quorum": 5, "rounds": 2, "strategy": config.strategy}
    with pytest.raises(ConfigurationError, match=r"shows the coordinator a sum.*fedavg"):
        Plan.model_validate(values | {"privacy": {"mechanism": "secure_aggregation", "weighting": "root"}})
    with pytest.raises(ConfigurationError, match=r"shows the coordinator a sum.*fedavg"):
        protection_of(config.privacy, 5, 2, "")


def test_what_a_person_types_becomes_a_plan_and_a_key_that_was_not_kept_is_asked_for(tmp_path):
    coordinator = create(tmp_path / "coordinator", CoordinatorConfig())
    words = ["privacy=secure_aggregation", "strategy=fedavg-equal", "name=spring", "base=b@1"]
    sites = {name: RegisteredSite(name, number, "0" * 64, point="02" + "00" * 48) for number, name in enumerate(FOUR)}
    superlink.write_sites(coordinator.folder, sites)
    plan = plan_of(compose("retraining", RetrainingConfig, words), coordinator)
    assert (plan.privacy.mechanism, plan.privacy.weighting) == ("secure_aggregation", "site")
    assert keys_of(coordinator.folder, plan) == ("02" + "00" * 48,) * 4

    # as a coordinator of before wrote it
    superlink.write_sites(coordinator.folder, sites | {"beta": RegisteredSite("beta", 1, "0" * 64)})
    with pytest.raises(ConfigurationError, match=r"vigie coordinator register beta KEY\.pub"):
        keys_of(coordinator.folder, plan)
    with pytest.raises(ConfigurationError, match="shows the coordinator a sum"):
        plan_of(compose("retraining", RetrainingConfig, [*words, "strategy=median"]), coordinator)


def test_people_see_whose_keys_they_trust(four):
    """`vigie site retraining show`: the coordinator could have invented the other hospitals."""
    site, plan = four["alpha"].site, support.plan_of(FOUR)
    four["alpha"].says(four.proposal(plan))

    def vigie(*words):
        return CliRunner().invoke(app, ["retraining", *words, "--folder", str(site.folder)]).output

    said = vigie("show", "spring")
    assert "the coordinator learns the sum over at least three hospitals alone" in said
    assert hospitals.fingerprint(four.points()["beta"]) in said
    assert said.count("not known here: compare it with them") == 3
    assert said.count("this hospital's own") == 1
    assert "masked-update, evidence, decision" in said
    said = vigie("approve", "spring", "--by", "Dr Curie")
    assert said.count("trusted here") == 3


def test_what_compares_updates_or_rounds_them_is_refused():
    with pytest.raises(ConfigurationError, match="norm_bound"):
        support.plan_of(FOUR, strategy={"name": "fedavg", "norm_bound": 2.0})
    with pytest.raises(ConfigurationError, match="compression=none"):
        support.plan_of(FOUR, compression={"updates": "eight-bit"})
    with pytest.raises(ConfigurationError, match="by the strategy's rule"):
        support.plan_of(FOUR, strategy={"name": "fedavg", "weighting": "site"}, weighting="root")
