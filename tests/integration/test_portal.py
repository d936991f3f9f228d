"""Vendors see how their own versions do, and nobody else's; what hospitals tell is kept once."""

import json
import logging
import re
from types import SimpleNamespace

import httpx
import pytest
from serving import serving

from configs.schema import CoordinatorConfig
from models import audit
from models.errors import Conflict, NotFound, NotSignedIn
from models.exchange import Audit, Figures, Lines, belongs
from models.stats.release import Column, Line
from server import errands, portal, statistics, vendors
from server.coordinator import create
from server.messaging import Failure
from server.registry import Registered

CHEST, HEAD = Registered("chest", 2, "c" * 64, "run"), Registered("head", 1, "d" * 64, "run")
WITH, WITHOUT = (Column("random", "biopsy", 100, truth) for truth in ("with", "without"))


def release(number, wrong=20, digest=CHEST.digest, n=100):
    lines = [
        Line(WITH, "all", n, wrong), Line(WITH, "sex-f", n - 40, None), Line(WITH, "sex-m", 40, None),
        Line(WITHOUT, "all", 3 * n, None, "wrong"),
    ]  # fmt: skip
    return Figures(digest=digest, number=number, period=202610, told=Lines.of(lines))


class Hospitals:
    """Each with the releases it has."""

    def __init__(self, **releases):
        self.releases, self.asked = releases, []

    def reached(self):
        return sorted(self.releases)

    def send_and_receive(self, orders, timeout):
        results = {}
        for site, order in orders.items():
            assert isinstance(order, Audit)
            self.asked.append((site, order))
            own = self.releases[site]
            if isinstance(own, str):
                results[site] = Failure(own)
                continue
            left = [one for one in own if one.number > order.asked.after and one.digest == order.asked.version]
            results[site] = left[0] if left else Figures(digest=order.asked.version)
            assert belongs(results[site], order)
        return SimpleNamespace(results=results)


class Models:
    def names(self):
        return ["chest", "head", "other"]

    def versions(self, name):
        return {"chest": [CHEST], "head": [HEAD]}[name]


@pytest.fixture
def coordinator(tmp_path):
    made = create(tmp_path / "coordinator", CoordinatorConfig())
    made.__dict__["registry"] = Models()
    return made


@pytest.fixture
def keys(coordinator):
    owners = {"acme": "chest", "bolt": "head"}
    return {name: vendors.add(coordinator.folder, name, [model]) for name, model in owners.items()}


@pytest.fixture
def client(coordinator):
    with serving(portal.make(coordinator.folder)) as address, httpx.Client(base_url=address, timeout=60) as found:
        yield found


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


def test_what_hospitals_tell_is_asked_for_until_there_is_no_more_and_kept_once(coordinator, keys):
    hospitals = Hospitals(nih=[release(1), release(2, 15)], shenzhen="consent-missing", guangzhou=[])
    assert statistics.collect(hospitals, coordinator) == 2
    assert statistics.collect(hospitals, coordinator) == 0
    told = statistics.told(coordinator.folder, CHEST.digest)
    assert [(one.site, one.number, one.lines[0].wrong) for one in told] == [("nih", 1, 20), ("nih", 2, 15)]
    assert statistics.silent(coordinator.folder, CHEST.digest) == {"shenzhen": "consent-missing"}
    for site, order in hospitals.asked:
        audit.verify(order.request, order.signature, order.signer, coordinator.trusted)
        assert order.asked.hospital == site
    assert statistics.told(coordinator.folder, HEAD.digest) == []


def test_a_release_told_anew_takes_the_place_and_the_first_stays_in_the_journal(coordinator, caplog):
    folder = coordinator.folder
    assert statistics.keep(folder, CHEST.digest, "nih", release(1))
    assert not statistics.keep(folder, CHEST.digest, "nih", release(1))
    with caplog.at_level(logging.WARNING):
        assert statistics.keep(folder, CHEST.digest, "nih", release(1, 30))
    assert "nih" in caplog.text
    assert [one.lines[0].wrong for one in statistics.told(folder, CHEST.digest)] == [30]
    kept = (folder / "statistics" / CHEST.digest / "journal.jsonl").read_text().splitlines()
    assert [json.loads(line)["lines"]["wrong"][0] for line in kept] == [20, 30]


def test_an_errand_collects(coordinator, keys, monkeypatch):
    monkeypatch.setattr(errands, "Coordinator", lambda folder: coordinator)
    errands.conduct(Hospitals(nih=[release(1)]), coordinator.folder, "errand/statistics")
    assert len(statistics.told(coordinator.folder, CHEST.digest)) == 1


def test_a_vendor_sees_their_own_versions_and_no_others(coordinator, keys, client):
    head = release(1, 44, HEAD.digest, 150)
    statistics.collect(Hospitals(nih=[release(1), head], shenzhen=[release(1, 33)]), coordinator)
    own = client.get("/api/versions", headers=bearer(keys["acme"])).json()
    assert own == [{"name": "chest", "number": 2, "digest": CHEST.digest}]
    assert client.get("/api/versions/chest/2", headers=bearer(keys["acme"])).status_code == 200
    nothing = client.get("/api/versions/none/1", headers=bearer(keys["acme"]))
    guesses = (
        "head/1",
        "head/01",
        "chest/3",
        "chest/2%2F..%2F..%2Fhead%2F1",
        "..%2Fhead/1",
        f"{HEAD.digest}/1",
        "chest%00/2",
    )
    for guess in (*guesses, "../head/1", "chest/2/../../head/1"):
        for ending in ("", "/figures.csv", "/report.pdf"):
            found = client.get(f"/api/versions/{guess}{ending}", headers=bearer(keys["acme"]))
            assert found.status_code == 404, guess
            assert HEAD.digest not in found.text
    assert client.get("/api/versions/head/1", headers=bearer(keys["acme"])).json() == nothing.json()
    for key in ("x", keys["acme"][:-1], "é"):
        assert client.get("/api/versions", headers={"Authorization": f"Bearer {key}".encode()}).status_code == 401
    assert client.get("/api/versions/head/1", headers=bearer(keys["bolt"])).json()["digest"] == HEAD.digest


def test_hospitals_have_another_name_towards_each_vendor(coordinator, keys, client):
    statistics.collect(Hospitals(nih=[release(1), release(1, 44, HEAD.digest, 150)]), coordinator)
    names = set()
    for vendor, place in (("acme", "chest/2"), ("bolt", "head/1")):
        for ending in ("", "/figures.csv"):
            found = client.get(f"/api/versions/{place}{ending}", headers=bearer(keys[vendor])).text
            assert "nih" not in found
            names |= set(re.findall(r"site-\w{8}", found))
    assert len(names) == 2


def test_each_figure_has_its_interval_its_patients_and_its_tier(coordinator, keys, client):
    statistics.collect(Hospitals(nih=[release(1)], shenzhen=[release(1, 33)]), coordinator)
    figures = client.get("/api/versions/chest/2", headers=bearer(keys["acme"])).json()["figures"]
    whole = next(
        one for one in figures if (one["rate"], one["hospital"], one["group"]) == ("sensitivity", "all", "all")
    )
    assert (whole["n"], whole["value"], whole["truth_tier"], whole["basis"]) == (200, 0.735, "biopsy", "exact")
    assert whole["low_95"] < 0.735 < whole["high_95"]
    for one in figures:
        assert one["low_95"] is not None
        assert one["n"] == "<11" or one["n"] >= 11
    client.post("/login", data={"key": keys["acme"]})
    page = client.get("/versions/chest/2").text
    assert page.count("<svg") == 3  # both rates by hospital; the funnel of the one whose counts are known
    lines = client.get("/api/versions/chest/2/figures.csv", headers=bearer(keys["acme"])).text.splitlines()
    assert len(lines) == 1 + len(figures)
    report = client.get("/api/versions/chest/2/report.pdf", headers=bearer(keys["acme"]))
    assert (report.content[:5], report.headers["content-type"]) == (b"%PDF-", "application/pdf")


def test_a_key_is_shown_once_and_opens_a_session_until_it_is_renewed(coordinator, keys, client):
    kept = (coordinator.folder / "vendors.json").read_text()
    assert keys["acme"] not in kept
    assert (coordinator.folder / "vendors.json").stat().st_mode & 0o077 == 0
    assert client.get("/").headers["location"] == "/login"
    assert client.post("/login", data={"key": "wrong"}).status_code == 401
    assert (
        client.post("/login", data={"key": keys["acme"]}, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    )
    answer = client.post("/login", data={"key": keys["acme"]})
    assert {"HttpOnly", "SameSite=strict"} <= set(answer.headers["set-cookie"].split("; "))
    assert "chest" in client.get("/").text
    forged = answer.cookies[portal.COOKIE].split(".")
    client.cookies.set(portal.COOKIE, ".".join([forged[0], "9999999999", forged[2]]))
    assert client.get("/").status_code == 303
    client.cookies.clear()
    client.post("/login", data={"key": keys["acme"]})
    assert client.get("/").status_code == 200
    vendors.renew(coordinator.folder, "acme")
    assert client.get("/").status_code == 303


def test_a_model_is_one_vendors(coordinator, keys):
    with pytest.raises(Conflict):
        vendors.add(coordinator.folder, "bolt", ["chest"])
    assert vendors.add(coordinator.folder, "acme", ["heart"]) == ""
    vendors.remove(coordinator.folder, "acme")
    with pytest.raises(NotSignedIn):
        vendors.by_key(coordinator.folder, keys["acme"])
    with pytest.raises(NotFound):
        vendors.remove(coordinator.folder, "acme")
