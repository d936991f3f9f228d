"""A version that the coordinator withdraws reads no further study; nobody else can take one off, and nothing more.

Behind the real border of the control channel, whatever comes: forged, twice, years later, before the version itself.
"""

import json
import shutil
import time

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ConfigRecord

import client.federation.site as served_by
from client.federation import withdrawal
from client.federation.border import Border
from client.federation.holdings import changes
from client.review import recall
from client.store import versions
from client.store.versions import Why
from configs.schema import save
from models import withdrawal as signed
from models.errors import Conflict, NotFound
from models.exchange import (
    Decision,
    Evidence,
    Holdings,
    Inquiry,
    Offer,
    Refusal,
    Release,
    TrainOrder,
    Withdrawal,
    Withdrawn,
    belongs,
    parse,
)
from models.hyperparameters import Hyperparameters
from models.withdrawal import Notice

OTHER = "e" * 64


class Hospital:
    def __init__(self, site, digest, key):
        self.site, self.digest, self.key = site, digest, key
        self.borders = {
            channel: Border(site.ledger, lambda: served_by.handlers(site.folder), channel)
            for channel in ("control", "training")
        }

    def notice(self, digest="", reason="the threshold is wrong", at=1.0, key=None, signer="coordinator"):
        content = Notice(version=digest or self.digest, label="brightness@1", reason=reason, at=at).to_bytes()
        return Withdrawal(notice=content, signer=signer, signature=signed.sign(content, key or self.key))

    def says(self, order, channel="control"):
        record = order.to_record() if hasattr(order, "to_record") else order
        return parse(self.borders[channel].answer(record))

    def asks(self):
        self.site.config.consent.withdrawals = "ask"
        self.write()

    def write(self):
        save(self.site.config, self.site.folder / "site.yaml")

    @property
    def state(self):
        return versions.find(self.site, self.digest).state

    def events(self, prefix="version.withdr"):
        return [(entry.event, json.loads(entry.facts)) for entry in self.site.ledger.entries(prefix)]


@pytest.fixture
def hospital(site, bundles):
    key = Ed25519PrivateKey.generate()
    bundles.trust(site.trust, key, "coordinator")
    found = Hospital(site, versions.panel(site)[0].digest, key)
    found.write()
    return found


def test_a_version_that_is_withdrawn_reads_no_more_and_people_are_told(hospital):
    order = hospital.notice()

    answer = hospital.says(order)

    assert answer == Withdrawn(digest=hospital.digest, notice=order.sha256, state="withdrawn")
    assert belongs(answer, order)
    assert versions.panel(hospital.site) == []
    with pytest.raises(Conflict):
        versions.adopt(hospital.site, hospital.digest, "Dr Curie", Why.OTHER)
    (told,) = withdrawal.listed(hospital.site)
    assert (told.notice.reason, told.served, told.pressing) == ("the threshold is wrong", True, True)
    assert [entry.event for entry in hospital.site.ledger.entries()][-4:] == [
        "border.crossed", "version.withdrawal", "version.withdrawn", "border.crossed",
    ]  # fmt: skip
    assert not withdrawal.see(hospital.site, "brightness@1", "Dr Curie").pressing
    assert hospital.site.ledger.first_break() is None
    # what somebody else wrote in free text is in no chain
    assert all("threshold" not in entry.facts for entry in hospital.site.ledger.entries())


def test_told_again_nothing_happens_again(hospital):
    first = hospital.says(hospital.notice())
    before = hospital.events("version.")

    assert hospital.says(hospital.notice()) == first
    assert hospital.says(hospital.notice(reason="another reason")).state == "withdrawn"
    assert hospital.events("version.") == before
    assert withdrawal.listed(hospital.site)[0].notice.reason == "the threshold is wrong"


@pytest.mark.parametrize("how", ["other-key", "other-signer", "signer-that-does-not-count", "altered", "terms"])
def test_a_forged_withdrawal_changes_nothing_and_the_hospital_is_told(hospital, bundles, how):
    stranger = Ed25519PrivateKey.generate()
    order = hospital.notice()
    match how:
        case "other-key":
            order = hospital.notice(key=stranger)
        case "other-signer":
            order = hospital.notice(key=stranger, signer="nobody")
        case "signer-that-does-not-count":
            bundles.trust(hospital.site.trust, stranger, "other-vendor")
            order = hospital.notice(key=stranger, signer="other-vendor")
        case "altered":
            other = hospital.notice(digest=OTHER)
            order = other.model_copy(update={"notice": order.notice})
        case _:
            from models import terms

            order = order.model_copy(update={"signature": terms.sign(order.notice, hospital.key)})

    answer = hospital.says(order)

    assert answer == Refusal(to="withdrawal", code="not-allowed")
    assert hospital.state == "adopted"
    assert withdrawal.listed(hospital.site) == []
    assert [event for event, _ in hospital.events()] == ["version.withdrawal-refused"]


@pytest.mark.parametrize(
    "fields",
    [
        {"notice": b"{}"},
        {"notice": b"x" * 5000},
        {"signature": b"short"},
        {"query": "select * from study"},
        {"notice": Notice(version=OTHER, label="m@1", reason="r", at=1.0).to_bytes().replace(b'"r"', b'"r\\nr"')},
    ],
)
def test_what_is_no_notice_is_refused_unread(hospital, fields):
    record = hospital.notice().to_record()
    record["vigie"] = ConfigRecord({**dict(record["vigie"]), **fields})

    assert hospital.says(record) == Refusal(to="withdrawal", code="border-refused")
    assert hospital.state == "adopted"


def test_by_policy_a_person_decides_and_a_notice_that_comes_again_does_not_undo_it(hospital):
    hospital.asks()
    order = hospital.notice()

    assert hospital.says(order).state == "waiting"
    assert (hospital.state, withdrawal.listed(hospital.site)[0].pressing) == ("adopted", True)
    withdrawal.decide(hospital.site, "brightness@1", "kept", "Dr Curie")
    assert hospital.says(order).state == "kept"
    assert (hospital.state, withdrawal.listed(hospital.site)[0].pressing) == ("adopted", False)
    withdrawal.decide(hospital.site, hospital.digest[:8], "obeyed", "Dr Curie")
    assert hospital.says(order).state == "withdrawn"
    assert hospital.state == "withdrawn"
    with pytest.raises(Conflict):
        withdrawal.decide(hospital.site, "brightness@1", "kept", "Dr Curie")
    with pytest.raises(NotFound):
        withdrawal.decide(hospital.site, "brightness@2", "kept", "Dr Curie")


def test_what_waits_is_obeyed_once_the_policy_says_so(hospital):
    hospital.asks()
    assert hospital.says(hospital.notice()).state == "waiting"
    hospital.site.config.consent.withdrawals = "obey"
    hospital.write()

    assert hospital.says(hospital.notice()).state == "withdrawn"
    assert hospital.state == "withdrawn"


def test_a_version_that_comes_after_its_withdrawal_is_not_adopted(hospital, monkeypatch):
    """It was on its way by the other channel when the hospital said that it does not have it."""
    assert hospital.says(hospital.notice(digest=OTHER)).state == "not-held"
    assert hospital.state == "adopted"
    assert not withdrawal.listed(hospital.site)[0].pressing
    told = []
    monkeypatch.setattr(served_by.consent, "require", lambda site, order: None)
    monkeypatch.setattr(served_by, "judge", lambda site, order: told.append("judged"))
    monkeypatch.setattr(
        served_by,
        "settle",
        lambda site, order: (
            told.append(order.released)
            or Decision(retraining="r", digest=OTHER, outcome="refused", reasons=("not-released",))
        ),
    )

    offered = hospital.says(Offer(retraining="r", digest=OTHER, bundle=b"a version"), "training")
    hospital.says(Release(retraining="r", digest=OTHER, released=True), "training")

    assert offered == Refusal(to="offer", code="not-allowed")
    assert told == [False]


def test_a_gate_does_not_adopt_what_waits_for_a_person(hospital):
    hospital.asks()
    versions.retire(hospital.site, "brightness")
    hospital.says(hospital.notice())

    with pytest.raises(Conflict):
        versions.adopt(hospital.site, hospital.digest)
    assert hospital.state == "retired"


def test_by_the_control_channel_comes_nothing_that_takes_long(hospital):
    """Else two trainings could run at a time, and withdrawals be kept waiting."""
    weights = versions.held(hospital.site, hospital.digest).read_weights() or {}
    order = TrainOrder(retraining="r", round=1, base=hospital.digest, hyper=Hyperparameters(), weights=weights)

    for order_, kind in (
        (order, "train"),
        (Offer(retraining="r", digest=OTHER, bundle=b"a version"), "offer"),
        (Release(retraining="r", digest=OTHER, released=True), "release"),
    ):
        assert hospital.says(order_) == Refusal(to=kind, code="not-allowed")
    refused = [json.loads(entry.facts)["kind"] for entry in hospital.site.ledger.entries("border.refused")]
    assert refused == ["train", "offer", "release"]


def test_a_hospital_with_one_connection_takes_a_withdrawal_by_that(hospital):
    assert hospital.says(hospital.notice(), "training").state == "withdrawn"


# ── What became of versions ──────────────────────────────────────────────────────────────────────────────────────────


def test_the_coordinator_is_told_of_what_it_asks_for_and_of_nothing_else(hospital):
    question = Inquiry(digests=(OTHER, hospital.digest))

    answer = hospital.says(question)

    assert answer == Holdings(digests=(hospital.digest,), states=("adopted",), changed=("gate",))
    assert belongs(answer, question)
    assert hospital.says(Inquiry(digests=(OTHER,))) == Holdings()
    assert not belongs(answer, Inquiry(digests=(OTHER,)))


def test_a_version_taken_off_for_safety_is_known_to_be_so(hospital, bundles, vendor_key, tmp_path):
    second = bundles.build(tmp_path / "second", vendor_key, number=2)
    shutil.copytree(second.folder, hospital.site.versions / second.digest)
    versions.receive(hospital.site, second)
    versions.adopt(hospital.site, second.digest)
    question = Inquiry(digests=(hospital.digest, second.digest))
    assert hospital.says(question).changed == ("gate", "gate")

    versions.roll_back(hospital.site, "brightness", "Dr Curie", Why.SAFETY)

    answer = hospital.says(question)
    assert (answer.states, answer.changed) == (("adopted", "retired"), ("safety", "safety"))
    versions.retire(hospital.site, "brightness", "Dr Curie", Why.QUALITY)
    assert hospital.says(question).states == ("retired", "retired")
    assert changes(hospital.site.ledger.entries("version."))[hospital.digest] == "quality"
    recall.take_back(hospital.site, second.digest, "Dr Curie")
    assert hospital.says(question).changed == ("quality", "safety")


def test_a_hospital_need_not_tell(hospital):
    hospital.site.config.consent.holdings = False
    hospital.write()

    assert hospital.says(Inquiry(digests=(hospital.digest,))) == Refusal(to="inquiry", code="consent-missing")


def test_an_answer_to_another_notice_is_none(hospital):
    order, other = hospital.notice(), hospital.notice(reason="another reason")
    answer = hospital.says(order)

    assert not belongs(answer, other)
    assert not belongs(answer, Inquiry(digests=(hospital.digest,)))
    assert not belongs(Evidence(retraining="r", digest=hospital.digest, verdict="adopt"), order)
    assert time.time() > withdrawal.listed(hospital.site)[0].notice.at
