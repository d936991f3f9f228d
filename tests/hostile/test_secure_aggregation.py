"""A coordinator that wants one hospital's update out of a sum: it invents hospitals, keys and drop-outs, asks twice."""

import itertools

import numpy as np
import pytest
import summing as support
from cryptography.hazmat.primitives.asymmetric import ec

import client.federation.group as at_hospital
from client.federation import consent, hospitals
from client.federation.sealed import Secrets
from configs.schema import ConsentConfig, PrivacyConfig, save
from models import group, masks, pki, shares, summand
from models.errors import Conflict
from models.exchange import Masked, MaskOrder, Refusal, Sealed, TrainOrder, Unmasked, UnmaskOrder, digest
from models.protection import Unprotected
from models.summand import Figures
from server import summing

FOUR = ("alpha", "beta", "delta", "gamma")
REFUSED = {"group-train": Refusal(to="group-train", code="not-allowed"), "mask": Refusal(to="mask", code="not-allowed")}
REFUSED["unmask"] = Refusal(to="unmask", code="not-allowed")


class Hostile:
    """A coordinator that goes through the steps by hand."""

    def __init__(self, honest):
        self.honest, self.hospitals, self.plan = honest, honest.hospitals, honest.plan
        self.group = honest.members.group

    def seal(self, names=FOUR, attempt=1, number=1):
        found = {name: self.hospitals[name].says(self.honest.group_order(name, number, attempt)) for name in names}
        assert all(isinstance(answer, Sealed) for answer in found.values()), found
        return found

    def mask_order(self, sealed, site, **changes):
        number = next(iter(sealed.values()))
        order = summing._mask_order(self.plan.name, number.round, number.attempt, self.group, sealed, site)
        return order.model_copy(update=changes)

    def mask(self, sealed):
        found = {name: self.hospitals[name].says(self.mask_order(sealed, name)) for name in sealed}
        assert all(isinstance(answer, Masked) for answer in found.values()), found
        return found

    def unmask_order(self, active, dead=(), attempt=1, number=1):
        values = {"retraining": self.plan.name, "round": number, "attempt": attempt}
        return UnmaskOrder(**values, active=tuple(sorted(active)), dead=tuple(sorted(dead)))

    def context(self, number=1, attempt=1):
        return self.group.context(number, attempt, digest(self.honest.aggregation().moving))

    def occasion(self, sealed):
        return group.occasion(self.context(), {name: one.given for name, one in sealed.items()})


@pytest.fixture
def four(make_site, bundles, vendor_key, tmp_path, monkeypatch):
    found = support.make(FOUR, make_site, bundles, vendor_key, tmp_path, monkeypatch)
    yield found
    for name in FOUR:
        found[name].site.database.close()


@pytest.fixture
def hostile(four, tmp_path):
    return Hostile(four.agree(support.plan_of(FOUR), tmp_path / "r"))


# ── Who is in it ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_no_policy_agrees_to_be_summed_with_hospitals_that_nobody_here_knows(four):
    """Else a coordinator would invent two and subtract them."""
    alpha, plan = four["alpha"], support.plan_of(FOUR)
    alpha.site.config.consent = ConsentConfig(standing="retrainings")
    save(alpha.site.config, alpha.site.folder / "site.yaml")
    said = alpha.says(four.proposal(plan))
    assert (said.state, said.reasons, said.key) == ("waiting", ("hospital-unknown",), None)

    for name in FOUR[1:]:
        pki.write_supernode_public(alpha.site.trust / "hospitals" / f"{name}.pub", four.points()[name])
    said = alpha.says(four.proposal(plan))
    assert (said.state, said.reasons) == ("granted", ("policy",))
    assert said.key is not None


def test_another_key_under_a_known_name_is_refused_and_the_old_one_stays(four):
    alpha = four["alpha"]
    alpha.says(four.proposal(support.plan_of(FOUR)))
    consent.approve(alpha.site, "spring", "Dr Curie")
    told = [entry.facts for entry in alpha.site.ledger.entries("hospital.trusted")]
    assert len(told) == 3
    assert hospitals.fingerprint(four.points()["beta"]) in told[0]

    invented = group.point(masks.new_key()).hex()
    keys = [invented if name == "beta" else four.points()[name] for name in FOUR]
    said = alpha.says(four.proposal(support.plan_of(FOUR, name="autumn"), keys=tuple(keys)))

    assert (said.state, said.reasons) == ("declined", ("hospital-changed",))
    with pytest.raises(Conflict, match="hospital-changed"):
        consent.approve(alpha.site, "autumn", "Dr Curie")
    assert hospitals.known(alpha.site)["beta"] == four.points()["beta"]


def test_a_hospital_that_wants_sums_takes_part_in_nothing_else(four):
    alpha = four["alpha"]
    alpha.site.config.privacy = PrivacyConfig(summed=True)
    save(alpha.site.config, alpha.site.folder / "site.yaml")
    plan = support.plan_of(FOUR, privacy=Unprotected())
    said = alpha.says(four.proposal(plan))
    assert (said.state, said.reasons) == ("declined", ("not-summed",))


def test_a_member_whom_the_terms_do_not_know_or_under_a_key_of_the_coordinators_is_refused(hostile):
    order, mine = hostile.honest.group_order("alpha"), masks.new_key()
    key = group.point(mine)
    identity = ec.generate_private_key(ec.SECP384R1())
    signature = group.sign_agreement(identity, hostile.group.terms, "beta", key)
    invented = {
        "sites": ("alpha", "beta", "delta", "invented"),
        "keys": (*order.keys[:3], key),
        "signatures": (*order.signatures[:3], signature),
    }
    swapped = {
        "keys": (order.keys[0], key, *order.keys[2:]),
        "signatures": (order.signatures[0], signature, *order.signatures[2:]),
    }
    without = {key: getattr(order, key)[1:] for key in ("sites", "keys", "signatures")}
    for changes in (invented, swapped, without):
        changed = order.model_copy(update=changes)
        assert hostile.hospitals["alpha"].says(changed) == REFUSED["group-train"]
    assert {
        "group-train: the terms do not know 'invented'",
        "group-train: the key is not one that 'beta' has signed for these terms",
        "group-train: this hospital is not in the group, or under another key",
    } <= hostile.hospitals["alpha"].told()


def test_the_group_stays_the_same_to_the_end(hostile):
    hostile.seal()
    order = hostile.honest.group_order("alpha", 2)
    smaller = order.model_copy(update={key: getattr(order, key)[:3] for key in ("sites", "keys", "signatures")})
    assert hostile.hospitals["alpha"].says(smaller) == REFUSED["group-train"]
    assert "group-train: another group" in hostile.hospitals["alpha"].told()


def test_hospitals_that_were_sent_other_weights_do_not_mask_for_each_other(hostile):
    """A coordinator that sends one of them weights of its own could see in the sum what only that one answers."""
    alpha = hostile.honest.group_order("alpha")
    weights = {name: np.array(array + np.float32(1), array.dtype) for name, array in alpha.weights.items()}
    weights["norm.seen"] = alpha.weights["norm.seen"]
    sealed = hostile.seal(FOUR[1:]) | {
        "alpha": hostile.hospitals["alpha"].says(alpha.model_copy(update={"weights": weights}))
    }
    assert isinstance(sealed["alpha"], Sealed)
    for name in FOUR:
        assert hostile.hospitals[name].says(hostile.mask_order(sealed, name)) == REFUSED["mask"]


# ── What is masked ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_update_that_is_to_be_summed_is_not_had_by_itself(hostile):
    order = hostile.honest.group_order("alpha")
    plain = {name: getattr(order, name) for name in TrainOrder.model_fields}
    alone = TrainOrder.model_construct(**plain)  # no honest coordinator can make one
    assert hostile.hospitals["alpha"].says(alone).code == "border-refused"
    open_ = TrainOrder(**(plain | {"privacy": Unprotected()}))
    assert hostile.hospitals["alpha"].says(open_).code == "not-allowed"
    assert "update" not in hostile.hospitals["alpha"].left()


def test_a_key_that_a_hospital_did_not_sign_for_this_round_is_refused(hostile):
    sealed = hostile.seal()
    mine = group.point(masks.new_key())
    identity = ec.generate_private_key(ec.SECP384R1())
    signature = group.sign_round(identity, hostile.context(), "beta", group.Given(mine, "0" * 64, 64))
    forged = sealed["beta"].model_copy(update={"key": mine, "commitment": "0" * 64, "signature": signature})
    older = hostile.seal(attempt=2) | {"beta": sealed["beta"]}  # of an attempt before
    for lists in ({**sealed, "beta": forged}, older):
        lists = {name: one.model_copy(update={"attempt": 2}) for name, one in lists.items()}
        assert hostile.hospitals["alpha"].says(hostile.mask_order(lists, "alpha")) == REFUSED["mask"]
    assert "masked" not in hostile.hospitals["alpha"].left()


def test_an_update_is_masked_once_an_attempt_and_with_enough_others(hostile):
    sealed = hostile.seal()
    alpha = hostile.hospitals["alpha"]
    two = {name: sealed[name] for name in ("alpha", "beta")}
    twice = hostile.mask_order(sealed, "alpha").model_copy(update={"sites": ("alpha", "beta", "beta", "gamma")})
    whole = vars(hostile.mask_order(sealed, "alpha"))
    fewer = {key: whole[key][:2] for key in ("sites", "keys", "commitments", "cases", "signatures")}
    few = MaskOrder.model_construct(**(whole | fewer | {"shares": (two["beta"].shares[0],)}))
    for order in (twice, few):
        assert alpha.says(order) == Refusal(to="mask", code="border-refused")

    three = {name: sealed[name] for name in FOUR[:3]}
    assert isinstance(alpha.says(hostile.mask_order(three, "alpha")), Masked)
    assert alpha.says(hostile.mask_order(sealed, "alpha")) == REFUSED["mask"]
    assert "mask: the update was masked for other hospitals already" in alpha.told()


def test_no_hospital_can_be_made_to_count_for_nothing_beside_another_one(hostile):
    """Told that somebody has 500 million cases, all but one would add next to nothing, and the sum be that one's."""
    sealed = hostile.seal()
    order = hostile.mask_order(sealed, "beta")
    more = order.model_copy(update={"cases": (*order.cases[:-1], 1 << 29)})
    assert hostile.hospitals["beta"].says(more) == REFUSED["mask"]
    assert "mask: this is not what 'gamma' has signed for this round" in hostile.hospitals["beta"].told()

    # and with a hospital that helps: it signs it, and only the others are told
    gamma = hostile.hospitals["gamma"].site
    given = group.Given(sealed["gamma"].key, sealed["gamma"].commitment, 1 << 29)
    signature = group.sign_round(at_hospital._identity(gamma), hostile.context(), "gamma", given)
    helped = sealed["gamma"].model_copy(update={"n_cases": 1 << 29, "signature": signature})
    stories = {name: sealed | ({} if name == "alpha" else {"gamma": helped}) for name in FOUR[:3]}
    masked = {name: hostile.hospitals[name].says(hostile.mask_order(story, name)) for name, story in stories.items()}
    assert all(isinstance(answer, Masked) for answer in masked.values())
    keys = {name: Secrets(hostile.hospitals[name].site.retrainings, "spring").round() for name in FOUR}
    seeds = {name: keys[name].seed for name in FOUR[:3]}
    pairs = {(name, "gamma"): masks.agreed(group.private(keys["gamma"].key), sealed[name].key) for name in FOUR[:3]}
    total = masks.summed(answer.vector for answer in masked.values())
    found = masks.restored(masks.unmasked(total, hostile.occasion(sealed), seeds, pairs), 3, 4)
    assert np.abs(found[4:]).max() > 1  # noise: their masks do not cancel


def test_a_part_that_was_meant_for_another_round_or_hospital_is_refused(hostile):
    sealed = hostile.seal()
    order = hostile.mask_order(sealed, "alpha")
    turned = order.model_copy(update={"shares": (order.shares[1], order.shares[0], order.shares[2])})
    assert hostile.hospitals["alpha"].says(turned) == REFUSED["mask"]


# ── What is unmasked ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_lists_that_do_not_fit_each_other_are_refused(hostile):
    hostile.mask(hostile.seal())
    alpha = hostile.hospitals["alpha"]

    def said(active, dead=()):
        values = {"retraining": "spring", "round": 1, "attempt": 1, "active": active, "dead": dead}
        return alpha.says(UnmaskOrder.model_construct(**values)).code

    assert said(FOUR, ("beta",)) == "border-refused"  # both active and dead
    assert said(("alpha", "beta", "beta", "delta"), ("gamma",)) == "border-refused"  # twice
    assert said(FOUR, ("gamma", "gamma")) == "border-refused"
    assert said(("alpha", "beta"), ("delta", "gamma")) == "border-refused"  # fewer than three
    assert said(("alpha", "beta", "delta")) == "not-allowed"  # nothing is said of one that was to mask
    assert said(("alpha", "beta", "delta"), ("invented",)) == "not-allowed"
    assert said(("beta", "delta", "gamma"), ("alpha",)) == "not-allowed"  # it is not dead itself
    assert "unmasked" not in alpha.left()


def test_fewer_than_two_thirds_of_a_larger_group_are_too_few(make_site, bundles, vendor_key, tmp_path, monkeypatch):
    five = (*FOUR[:3], "epsilon", "gamma")
    several = support.make(five, make_site, bundles, vendor_key, tmp_path, monkeypatch)
    hostile = Hostile(several.agree(support.plan_of(five), tmp_path / "r"))
    hostile.mask(hostile.seal(five))
    assert hostile.hospitals["alpha"].says(hostile.unmask_order(five[:3], five[3:])) == REFUSED["unmask"]
    assert "unmask: 3 hospitals are too few: 4 are needed" in hostile.hospitals["alpha"].told()
    assert isinstance(hostile.hospitals["alpha"].says(hostile.unmask_order(five[:4], five[4:])), Unmasked)


def test_one_sum_of_a_round_is_unmasked_whatever_the_coordinator_says_has_crashed(hostile):
    """Two that differ in one hospital give it away: the same lists are answered again, others and new attempts not."""
    hostile.mask(hostile.seal())
    alpha, without = hostile.hospitals["alpha"], hostile.unmask_order(("alpha", "delta", "gamma"), ("beta",))
    first = alpha.says(without)
    assert isinstance(first, Unmasked)
    assert alpha.says(without) == first
    assert alpha.says(hostile.unmask_order(FOUR)) == REFUSED["unmask"]
    assert alpha.says(hostile.honest.group_order("alpha", 1, 2)) == REFUSED["group-train"]
    assert {"unmask: another sum of this round was unmasked already", "group-train: this round was summed already"} <= (
        alpha.told()
    )


def test_an_attempt_that_has_passed_does_not_come_back(hostile):
    hostile.mask(hostile.seal())
    hostile.seal(attempt=2)
    alpha = hostile.hospitals["alpha"]
    assert alpha.says(hostile.unmask_order(FOUR)).code == "not-found"
    assert alpha.says(hostile.honest.group_order("alpha", 1, 1)) == REFUSED["group-train"]


def test_a_retraining_that_has_ended_is_not_summed_again_with_others(hostile, monkeypatch):
    hostile.mask(hostile.seal())
    alpha = hostile.hospitals["alpha"]
    at_hospital.finish(alpha.site, "spring")

    said = alpha.says(hostile.hospitals.proposal(hostile.plan))

    assert (said.state, said.key) == ("granted", None)
    assert alpha.says(hostile.honest.group_order("alpha")).code == "not-found"


def test_who_withdraws_between_two_steps_is_out_of_the_round(hostile):
    sealed = hostile.seal()
    alpha = hostile.hospitals["alpha"]
    consent.withdraw(alpha.site, "spring", "Dr Curie")
    assert alpha.says(hostile.mask_order(sealed, "alpha")).code == "consent-missing"
    assert "masked" not in alpha.left()


# ── The attack itself ────────────────────────────────────────────────────────────────────────────────────────────────


def attack(hostile, sealed, masked, victim):
    """Tell half of the hospitals that the victim is active and the other half that it is dead, each again if it answers
    twice; the victim's update, or None.
    """
    others = tuple(name for name in FOUR if name != victim)
    alive, gone = hostile.unmask_order(FOUR), hostile.unmask_order(others, (victim,))
    seeds, keys = {}, {}
    for number, name in enumerate(FOUR):
        for order in (alive, gone) if number % 2 else (gone, alive):
            said = hostile.hospitals[name].says(order)
            if isinstance(said, Unmasked) and order is alive:
                seeds[FOUR.index(name) + 1] = said.seeds[FOUR.index(victim)]
            elif isinstance(said, Unmasked):
                keys[FOUR.index(name) + 1] = said.keys[0]
    occasion, threshold = hostile.occasion(sealed), hostile.group.threshold
    seed = shares.joined(seeds, threshold, lambda found: group.commitment(found) == sealed[victim].commitment)
    scalar = shares.joined(keys, threshold, lambda found: summing._is_key(found, sealed[victim].key))
    if seed is None or scalar is None:
        return None
    key = group.private(scalar)
    pairs = {(victim, other): masks.agreed(key, sealed[other].key) for other in others}
    vector = masks.unmasked(masked[victim].vector, occasion, {victim: seed}, pairs)
    return masks.restored(vector, 1, 4)


def test_a_coordinator_that_tells_two_stories_learns_no_update(hostile):
    sealed = hostile.seal()
    assert attack(hostile, sealed, hostile.mask(sealed), "beta") is None


def test_the_same_attack_has_the_update_of_hospitals_that_answer_twice(hostile, monkeypatch):
    """Without this, the test above could pass because its attack is harmless."""
    monkeypatch.setattr(at_hospital, "_decide", lambda *_: None)
    sealed = hostile.seal()

    found = attack(hostile, sealed, hostile.mask(sealed), "beta")

    order = hostile.honest.group_order("beta")
    update = support.trained(hostile.hospitals["beta"].site, order)
    bounds = hostile.honest.aggregation().bounds
    share = summand.share("root", update.n_cases, 64)
    change = summand.change(update.weights, order.weights, bounds)
    assert np.allclose(found[4:], change * share, atol=1e-8)


def test_what_a_coordinator_holds_of_a_round_says_nothing_of_one_update(hostile):
    """All that an honest round gives it, put together in every way that takes off one hospital's masks."""
    sealed = hostile.seal()
    masked = hostile.mask(sealed)
    said = {name: hostile.hospitals[name].says(hostile.unmask_order(FOUR)) for name in FOUR}
    seeds = {
        name: shares.joined(
            {FOUR.index(helper) + 1: one.seeds[place] for helper, one in said.items()},
            3,
            lambda found, right=sealed[name].commitment: group.commitment(found) == right,
        )
        for place, name in enumerate(FOUR)
    }
    order = hostile.honest.group_order("beta")
    update = support.trained(hostile.hospitals["beta"].site, order)
    change = summand.change(update.weights, order.weights, hostile.honest.aggregation().bounds)
    share = summand.share("root", update.n_cases, 64)
    own = masks.quantized(summand.summand(change, share, Figures(0.59, 0.25, 0.75)), 4)
    for size in range(1, 4):
        for names in itertools.combinations(FOUR, size):
            partial = masks.unmasked(
                masks.summed(masked[name].vector for name in names),
                hostile.occasion(sealed),
                {name: seeds[name] for name in names},
                {},
            )
            # bits in common with the plain update, as often as by chance
            same = np.unpackbits((partial ^ own).view(np.uint8)).mean()
            assert 0.47 < same < 0.53, names


def test_a_release_ends_it_and_leaves_no_secret(hostile):
    hostile.mask(hostile.seal())
    alpha = hostile.hospitals["alpha"]
    folder = alpha.site.retrainings / "spring" / "group"
    assert {path.name for path in folder.iterdir()} == {"agreement", "round.json", "summand.npz", "masked.npz"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.iterdir())
    at_hospital.finish(alpha.site, "spring")
    assert not folder.exists()
