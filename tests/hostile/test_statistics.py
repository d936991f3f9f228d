"""What a vendor is told of a hospital shows no patient, whoever asks, however often, and with whatever else they hold.

Behind the real border of the control channel; and ten thousand made-up exports (`-m exhaustive`; some of them always).
"""

import json
import random
import time
from dataclasses import replace
from typing import get_args

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from typer.testing import CliRunner
from validated import YEAR, Exam, fill, several

import client.federation.site as served_by
from client.doctor import examine
from client.federation import budget, statistics
from client.federation.border import Border
from client.store import versions
from configs.schema import save
from models import audit
from models.audit import Request
from models.errors import BorderRefused, Conflict
from models.exchange import Audit, Figures, Refusal, check_answer, parse
from models.stats import release
from models.stats.disclosure import LEAST
from models.stats.release import Column, Patient, Stream, Tier
from scripts.vigie import app

OTHER = "e" * 64
MONTH = 31 * 86400.0


class Hospital:
    def __init__(self, site, key):
        self.site, self.key, self.digest = site, key, versions.panel(site)[0].digest
        self.border = Border(site.ledger, lambda: served_by.handlers(site.folder), "control")

    def consents(self, how):
        self.site.config.consent.statistics = how
        save(self.site.config, self.site.folder / "site.yaml")

    def order(self, after=0, at=None, hospital="", digest="", key=None, signer="coordinator"):
        at, name = time.time() if at is None else at, hospital or self.site.config.name
        content = Request(version=digest or self.digest, hospital=name, after=after, at=at).to_bytes()
        return Audit(request=content, signer=signer, signature=audit.sign(content, key or self.key))

    def says(self, order):
        return parse(self.border.answer(order.to_record()))

    def events(self, prefix="statistics"):
        return [(entry.event, json.loads(entry.facts)) for entry in self.site.ledger.entries(prefix)]


@pytest.fixture
def hospital(site, bundles):
    key = Ed25519PrivateKey.generate()
    bundles.trust(site.trust, key, "coordinator")
    found = Hospital(site, key)
    found.consents("policy")
    return found


def all_of(figures):
    return {
        (line.column.stream, line.column.truth): (line.n, line.wrong)
        for line in figures.told.lines()
        if line.group == "all"
    }


def test_counts_leave_by_stream_and_truth_once_and_are_in_the_ledger_first(hospital):
    fill(hospital.site, hospital.digest, several(60, 15, True) + several(90, 20, False))
    due = several(30, 12, True, fold="train", blind=False, drawn=("discordant", 1.0))
    fill(hospital.site, hospital.digest, due)  # drawn, and nobody has read them again

    first = hospital.says(hospital.order())

    assert isinstance(first, Figures)
    assert all_of(first) == {("random", "with"): (60, 15), ("random", "without"): (90, 20)}
    assert [event for event, _ in hospital.events()] == ["statistics.closed"]
    out = [facts for event, facts in hospital.events("border.crossed") if facts["direction"] == "out"]
    assert out[-1]["kind"] == "figures"
    assert hospital.says(hospital.order()) == first  # asked again, the same
    assert hospital.says(hospital.order(after=1)) == Figures(digest=hospital.digest)
    (kept,) = statistics.listed(hospital.site)
    assert (kept.patients, kept.state, kept.asked_at is not None) == (150, "agreed", True)


def test_a_patient_is_counted_once_whatever_comes_later(hospital):
    site = hospital.site
    (known, *_) = fill(site, hospital.digest, several(60, 15, True))
    first = statistics.make(site, hospital.digest)
    fill(site, hospital.digest, [Exam(True, True, patient=known)] * 3 + several(10, 10, True))
    later = time.time() + MONTH
    assert statistics.preview(site, hospital.digest, later).lines == ()  # ten new patients, however the months go by
    fill(site, hospital.digest, several(60, 2, True))
    second = statistics.make(site, hospital.digest, later)
    assert first is not None
    assert second is not None
    assert [(line.n, line.wrong) for line in second.lines if line.group == "all"] == [(70, 12)]


def test_within_a_month_there_is_one_release(hospital):
    fill(hospital.site, hospital.digest, several(60, 15, True))
    assert hospital.says(hospital.order()).number == 1
    fill(hospital.site, hospital.digest, several(60, 15, True))
    assert hospital.says(hospital.order(after=1)).number == 0
    assert statistics.make(hospital.site, hospital.digest, time.time() + MONTH).number == 2


def test_what_became_known_this_month_waits(hospital):
    fill(hospital.site, hospital.digest, several(300, 60, True), age=0.0)
    assert hospital.says(hospital.order()).number == 0


def test_objections_and_whom_a_retrained_version_learned_from_are_not_counted(hospital, monkeypatch):
    fill(hospital.site, hospital.digest, several(60, 15, True, objects=True))
    assert hospital.says(hospital.order()).number == 0
    fill(hospital.site, hospital.digest, several(60, 15, True, fold="train"))
    facts = versions.facts(hospital.site, hospital.digest).model_copy(update={"retraining": "spring"})
    monkeypatch.setattr("client.vigilance.counting.versions.facts", lambda site, digest: facts)
    assert hospital.says(hospital.order()).number == 0


def test_what_of_the_random_sample_somebody_chose_to_look_at_makes_no_rate(hospital):
    """Readers who look at what the AI called, and not at the rest, would make a version look good that misses half."""
    called, silent = several(200, 0, True), several(200, 200, True)
    fill(hospital.site, hospital.digest, called + [replace(one, blind=False) for one in silent])
    assert statistics.preview(hospital.site, hospital.digest).lines == ()
    fill(hospital.site, hospital.digest, silent[:100] + [replace(one, blind=False) for one in silent[:100]])
    ((n, wrong),) = all_of(hospital.says(hospital.order())).values()
    assert wrong == 100
    assert 0.55 < wrong / n < 0.75  # two misses to a hit, as they come


def test_second_reads_say_with_which_probability_they_were_drawn(hospital):
    drawn = {"fold": "train", "drawn": ("double_negative", 0.15)}
    fill(hospital.site, hospital.digest, several(50, 0, False, **drawn) + several(12, 12, True, **drawn))
    fill(hospital.site, hospital.digest, several(60, 12, True, fold="train", blind=False))
    lines = hospital.says(hospital.order()).told.lines()
    found = {(one.column.stream, one.column.inclusion, one.column.tier, one.column.truth): one.n for one in lines}
    assert found == {
        ("double-negative", 15, "single_reader", "without"): 50,
        ("double-negative", 15, "single_reader", "with"): 12,
        ("routine", 0, "ai_visible", "with"): 60,
    }


@pytest.mark.parametrize("how", ["other-key", "other-signer", "other-hospital", "kept", "altered"])
def test_a_forged_question_gets_nothing_and_the_hospital_is_told(hospital, how):
    fill(hospital.site, hospital.digest, several(60, 15, True))
    stranger = Ed25519PrivateKey.generate()
    order = {
        "other-key": lambda: hospital.order(key=stranger),
        "other-signer": lambda: hospital.order(key=stranger, signer="nobody"),
        "other-hospital": lambda: hospital.order(hospital="elsewhere"),
        "kept": lambda: hospital.order(at=time.time() - 2 * audit.FRESH),
        "altered": lambda: hospital.order(digest=OTHER).model_copy(update={"request": hospital.order().request}),
    }[how]()

    assert hospital.says(order) == Refusal(to="audit", code="not-allowed")
    ((event, facts),) = hospital.events()
    assert (event, facts["version"]) == ("statistics.refused", hospital.digest)
    assert sum(statistics.refusals(hospital.site).values()) == 1
    assert not next(check for check in examine(hospital.site) if check.name == "statistics").ok
    assert statistics.listed(hospital.site) == []


def test_without_consent_nothing_is_counted(hospital):
    fill(hospital.site, hospital.digest, several(60, 15, True))
    hospital.consents("none")
    assert hospital.says(hospital.order()) == Refusal(to="audit", code="consent-missing")
    assert statistics.listed(hospital.site) == []
    assert [event for event, _ in hospital.events()] == ["statistics.refused"]
    assert next(check for check in examine(hospital.site) if check.name == "statistics").ok  # as it was meant


def test_where_a_person_is_asked_nothing_leaves_before(hospital):
    fill(hospital.site, hospital.digest, several(60, 15, True))
    hospital.consents("ask")
    assert hospital.says(hospital.order()).number == 0
    assert hospital.says(hospital.order()).number == 0
    (waiting,) = statistics.listed(hospital.site)
    assert waiting.state == "waiting"
    assert not next(check for check in examine(hospital.site) if check.name == "statistics").ok
    folder, run = ("--folder", str(hospital.site.folder)), CliRunner(env={"COLUMNS": "200"}).invoke
    listed = run(app, ["site", "statistics", "releases", "--lines", *folder])
    assert (listed.exit_code, "waiting" in listed.output, "random" in listed.output) == (1, True, True)
    agreed = run(app, ["site", "statistics", "consent", hospital.digest[:12], "1", "--by", "Dr Curie", *folder])
    assert agreed.output == "brightness@1 release 1 is agreed\n"
    assert "nothing" in run(app, ["site", "statistics", "show", *folder]).output  # all has been told
    assert hospital.says(hospital.order()).number == 1
    with pytest.raises(Conflict):
        statistics.decide(hospital.site, hospital.digest, 1, "declined", "Dr Curie")


def test_who_is_in_a_release_that_was_declined_is_free_for_the_next(hospital):
    fill(hospital.site, hospital.digest, several(60, 15, True))
    hospital.consents("ask")
    statistics.make(hospital.site, hospital.digest)
    statistics.decide(hospital.site, hospital.digest, 1, "declined", "Dr Curie")
    assert hospital.says(hospital.order()).number == 0
    hospital.consents("policy")
    second = statistics.make(hospital.site, hospital.digest, time.time() + MONTH)
    assert (second.number, second.patients) == (2, 60)


def test_a_reply_that_would_show_a_patient_does_not_leave(hospital, monkeypatch):
    careless = Figures(
        digest=hospital.digest,
        number=1,
        period=202611,
        told={
            "stream": ("random",), "tier": ("biopsy",), "inclusion": (100,), "truth": ("with",), "group": ("all",),
            "n": (60,), "wrong": (3,), "few": ("",),
        },
    )  # fmt: skip
    monkeypatch.setattr("client.federation.site.statistics.answer", lambda site, order: careless)
    assert hospital.says(hospital.order()) == Refusal(to="audit", code="reply-refused")
    with pytest.raises(BorderRefused):
        check_answer(careless, hospital.order())


# ── Made-up exports ──────────────────────────────────────────────────────────────────────────────────────────────────

CANARY = "dupontmarie"
WORDS = {
    *release.TABLES["sex"], *release.TABLES["age"], *release.TABLES["scanner"], "all", "", "right", "wrong", "with",
    "without", *get_args(Stream), *get_args(Tier),
}  # fmt: skip


def export(seed):
    """Some months of a made-up hospital: what it told, and of whom."""
    draw = random.Random(seed)
    ages, makers = ("child", "18-39", "40-64", "65+", "?", CANARY), ("siemens", "ge", "philips", CANARY, "?")
    strata = [f"{draw.choice('FMO?')}|{draw.choice(ages)}|{draw.choice(makers)}" for _ in range(draw.randint(1, 9))]
    shares = [draw.random() ** 3 for _ in strata]
    columns = [
        Column(draw.choice(get_args(Stream)), draw.choice(get_args(Tier)), draw.choice((0, 15, 50, 100)), truth)
        for truth in ("with", "without")
        for _ in range(draw.randint(1, 2))
    ]
    right, waiting, now = {one: draw.random() for one in columns}, [], 0.0
    for month in range(draw.randint(1, 8)):
        now += MONTH
        for n in range(draw.choice((0, 1, 5, 11, 40, 150))):
            column = draw.choice(columns)
            one_sided = (column.stream == "double-positive") is (column.truth == "with")
            well = one_sided if column.one_sided else draw.random() < right[column]
            groups = release.groups_of(draw.choices(strata, shares)[0])
            waiting.append(Patient(f"{CANARY}-{month}-{n}", column, groups, well, now - draw.random() * YEAR))
        block = release.close(waiting, now)
        yield block, list(waiting)
        waiting = [one for one in waiting if one.key not in block.patients]


def attack(seed):
    """No row, no word of ours, no count under eleven, and no two releases that share a patient."""
    seen, lines = set(), 0
    for block, waiting in export(seed):
        assert not seen & block.patients
        seen |= block.patients
        if not block.lines:
            continue
        lines += len(block.lines)
        sent = Figures(digest=OTHER, number=1, period=202611, told=statistics.Lines.of(block.lines)).to_record()
        read = parse(sent)
        assert read.faults() == []
        told = read.told.model_dump()
        assert {word for name in ("stream", "tier", "truth", "group", "few") for word in told[name]} <= WORDS
        assert CANARY not in repr(sent)
        assert min(told["n"]) >= LEAST
        halves = [(n - wrong, wrong) for n, wrong in zip(told["n"], told["wrong"], strict=True) if wrong != -1]
        assert min((min(one) for one in halves), default=LEAST) >= LEAST
        for line in block.lines:
            own = [one for one in waiting if one.key in block.patients and one.column == line.column]
            own = own if line.group == "all" else [one for one in own if line.group in one.groups]
            assert line.n == len(own)
    return lines


def test_made_up_exports_show_no_row_and_no_small_count():
    assert sum(attack(seed) for seed in range(150)) > 100


@pytest.mark.exhaustive
def test_ten_thousand_made_up_exports_show_no_row_and_no_small_count():
    assert sum(attack(seed) for seed in range(10_000)) > 1000


def test_the_difference_of_two_growing_tables_would_show_a_patient():
    """Why blocks: counts of all patients so far, each of them safe by itself, give away who came between."""
    groups = release.groups_of("F|40-64|siemens")
    everybody = [Patient(str(n), Column("random", "biopsy", 100, "with"), groups, n % 2 == 0, 0.0) for n in range(101)]
    before, after = (release.close(some, YEAR * 2).lines[0] for some in (everybody[:100], everybody))
    assert (after.n - before.n, after.wrong - before.wrong) == (1, 0)


# ── Noise ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_noise_is_paid_from_the_budget_once_for_a_version_and_drawn_once_for_a_release(hospital):
    site = hospital.site
    site.config.privacy.statistics, site.config.privacy.epsilon = 1.0, 1.5
    hospital.consents("policy")
    fill(site, hospital.digest, several(200, 60, True))
    first = hospital.says(hospital.order())
    assert first.epsilon == 1.0
    assert hospital.says(hospital.order()) == first
    assert budget.account(site).spent == pytest.approx(1.0)
    fill(site, hospital.digest, several(200, 60, True))
    statistics.make(site, hospital.digest, time.time() + MONTH)
    assert budget.account(site).spent == pytest.approx(1.0)  # of other patients
    assert statistics.listed(site)[1].lines[0].n != 0


def test_where_the_budget_is_spent_nothing_leaves_and_the_hospital_is_told(hospital):
    site = hospital.site
    site.config.privacy.statistics, site.config.privacy.epsilon = 1.0, 0.5
    hospital.consents("policy")
    fill(site, hospital.digest, several(200, 60, True))
    assert hospital.says(hospital.order()) == Refusal(to="audit", code="budget-exhausted")
    assert statistics.listed(site) == []
    assert statistics.refusals(site)
