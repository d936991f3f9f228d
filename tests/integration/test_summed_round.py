"""A round whose updates are summed, over a live SuperLink, while hospitals are killed; and all that the coordinator's
process has in its memory meanwhile.
"""

import json
import re
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import summing as support
from federation_peers import SUPPORT, Federation
from needles import Needles

from client.federation import hospitals
from client.federation.sealed import Secrets
from client.store import versions
from client.store.site import Site, create
from configs.schema import ConsentConfig, CoordinatorConfig, SiteConfig
from models import group, masks, pki, summand
from server import coordinator as coordinators
from server.aggregation import Aggregation
from server.journal import Journal
from server.plan import save

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]
FOUR = ("alpha", "beta", "delta", "gamma")
HOSPITAL = (sys.executable, str(SUPPORT / "summing_hospital.py"))
PIECE = 48
"""Bytes of a needle: twelve numbers of one array."""


class Live:
    def __init__(self, folder, bundles, vendor_key):
        self.federation = Federation(folder, ())
        try:
            self.folder = self.federation.folder
            coordinator = coordinators.create(self.folder, CoordinatorConfig(mlflow_port=1))
            bundles.trust(self.folder / "trust", vendor_key)
            self.base = support.base_of(self.folder / "base", bundles, vendor_key)
            self.sites = {name: self._hospital(folder / name, name, coordinator, bundles, vendor_key) for name in FOUR}
            keys = {name: site.secrets / "supernode.key.pub" for name, site in self.sites.items()}
            for name, site in self.sites.items():
                for other in set(FOUR) - {name}:
                    pki.write_supernode_public(
                        site.trust / "hospitals" / f"{other}.pub", pki.supernode_point(keys[other])
                    )
        except BaseException:
            self.federation.stop()
            raise

    def _hospital(self, folder, name, coordinator, bundles, vendor_key):
        policy = ConsentConfig(standing="retrainings", most_retrainings=100)
        site = create(folder, SiteConfig(name=name, consent=policy))
        shutil.copy(coordinator.folder / "trust" / "coordinator.pub", site.trust)
        bundles.trust(site.trust, vendor_key)
        shutil.copytree(self.base.folder, site.versions / self.base.digest)
        versions.receive(site, self.base)
        self.federation.add(folder, name, program=HOSPITAL)
        return site

    def begin(self, plan):
        self.plan = plan
        self.retraining = save(plan, self.folder)
        self.run = self.federation.superlink.run(plan.name)

    def wait_at(self, what, timeout=60):
        """Until the coordinator has had an exchange, and holds its answers."""
        deadline = time.monotonic() + timeout
        while not (found := list(self.retraining.glob(f"*-{what}.paused"))):
            state = self.federation.superlink.state(self.run)
            assert state.progress in ("pending", "starting", "running"), state
            assert time.monotonic() < deadline, f"the coordinator did not come to {what}"
            time.sleep(0.05)
        return found[0].with_suffix(".go")

    def server(self):
        """The process in which the round runs: the one that has the SuperLink's run open."""
        family = psutil.Process(self.federation.superlink.child.pid).children(recursive=True)
        return max((one for one in family if "serverapp" in " ".join(one.cmdline())), key=lambda one: one.pid)

    def stop(self):
        self.federation.stop()
        for site in self.sites.values():
            site.database.close()


@pytest.fixture(scope="module")
def live(tmp_path_factory, bundles, vendor_key):
    found = Live(tmp_path_factory.mktemp("summed"), bundles, vendor_key)
    yield found
    found.stop()


def memory(process):
    """All that a process can write to, region by region.

    Source: proc_pid_maps(5), proc_pid_mem(5).
    """
    maps = Path(f"/proc/{process.pid}/maps").read_text()
    with Path(f"/proc/{process.pid}/mem").open("rb", buffering=0) as file:
        for start, end, modes, name in re.findall(r"^([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ \S+ *(.*)$", maps, re.M):
            if modes.startswith("rw") and name not in ("[vvar]", "[vsyscall]"):
                first, last = int(start, 16), int(end, 16)
                while first < last:
                    file.seek(first)
                    try:
                        content = file.read(min(last - first, 64 << 20))
                    except OSError:
                        break
                    yield content
                    # pieces overlap, so that no needle is cut in two
                    first += len(content) if first + len(content) >= last else len(content) - PIECE


def found_in(process, needles):
    return set().union(*(needles.find(content) for content in memory(process)))


def pieces(needles, name, array):
    """Some places of an array as it lies in memory."""
    content = np.ascontiguousarray(array).reshape(-1).view(np.uint8).tobytes()
    for start in range(0, len(content) - PIECE, max((len(content) - PIECE) // 3 // 8 * 8, 8)):
        needles.add(name, content[start : start + PIECE])


def secret(needles, name, content):
    needles.add(name, content)
    needles.add(name, content.hex().encode())


def of_round(live):
    """Needles: what must never be in the coordinator's memory, and what must be there or nobody has looked."""
    never, there, rounds = Needles(), Needles(), {}
    for name, site in live.sites.items():
        rounds[name] = Secrets(site.retrainings, live.plan.name).round()
    context, points = (
        rounds["alpha"].context,
        {name: group.point(group.private(one.key)) for name, one in rounds.items()},
    )
    given = {name: one.answer.given for name, one in rounds.items()}
    occasion = group.occasion(context, given)
    for name, site in live.sites.items():
        own, kept = rounds[name], Secrets(site.retrainings, live.plan.name)
        change, cases, figures = kept.summand(context)
        update = support.trained(Site(site.folder), _order(live, name)).weights
        pieces(never, f"the update of {name}", update["layer.weight"])
        pieces(never, f"the difference of {name}", change)
        numbers = summand.summand(change, summand.share("root", cases, 64), figures)
        pieces(never, f"the summand of {name}", numbers)
        key = group.private(own.key)
        pairs = {other: masks.agreed(key, points[other]) for other in FOUR if other != name}
        secret(never, f"the agreement key of {name}", group.scalar(kept.agreement()))
        secret(never, f"the identity of {name}", group.scalar(pki.load_supernode(site.secrets / "supernode.key")))
        if name != "beta":  # it drops out: its key is put together to take its masks off
            secret(never, f"the key of {name}", own.key)
            for other, shared in pairs.items():
                if other != "beta":
                    secret(never, f"the secret of {name} and {other}", shared)
                    stream = masks.pair_mask(shared, occasion, name, other, len(numbers))
                    pieces(never, f"the mask of {name} and {other}", stream)
            vector = kept._read_arrays("masked", context)["vector"]
            pieces(there, f"masked, {name}", vector)
            plain = masks.unmasked(vector, occasion, {name: own.seed}, {(name, other): pairs[other] for other in pairs})
            pieces(never, f"the integers of {name}", plain)
            assert np.abs(masks.restored(plain, 1, 4) - numbers).max() < 1e-8  # these are the needles that we mean
        else:
            secret(never, f"the seed of {name}", own.seed)
    return never, there


def _order(live, name):
    aggregation = Aggregation(live.plan, live.base.digest, live.base.facts, live.base.read_weights())
    line = Journal(live.retraining).last("group")
    keys, signatures = (tuple(bytes.fromhex(one) for one in line[key]) for key in ("keys", "signatures"))
    members = group.Group(line["terms"], tuple(line["sites"]), keys)
    return aggregation.group_order(1, name, 1, members, signatures)


def test_no_update_and_no_mask_of_two_is_ever_in_the_coordinators_memory(live):
    """A hospital is killed before it has masked, another one after it: one is not in the sum, one is, once."""
    (live.sites["beta"].folder / "behaviour").write_text("mask-always")
    (live.sites["gamma"].folder / "behaviour").write_text("mask-after")
    live.begin(support.plan_of(FOUR, name="summed-memory", rounds=1, deadline_seconds=60))

    live.wait_at("group-train").touch()
    go = live.wait_at("mask")
    never, there = of_round(live)
    process = live.server()
    assert found_in(process, there) == {"masked, alpha", "masked, delta", "masked, gamma"}
    assert found_in(process, never) == set()
    go.touch()
    go = live.wait_at("unmask")
    assert found_in(process, never) == set()
    go.touch()
    go = live.wait_at("end")
    assert found_in(process, never) == set()
    summed = Needles()
    weights = Journal(live.retraining).load_weights(1)
    pieces(summed, "the mean", weights["layer.weight"])
    assert found_in(process, summed) == {"the mean"}
    go.touch()

    assert live.federation.superlink.wait(live.run, 60).progress == "completed"
    (told,) = json.loads((live.retraining / "report.json").read_text())["exchanges"]
    assert list(told["cases"]) == ["alpha", "delta", "gamma"]
    assert told["failures"] == {"beta": "interrupted"}
    in_the_open = mean_of(live, told["cases"])
    assert np.allclose(weights["layer.weight"], in_the_open, atol=1e-5)
    left = [facts for facts in _crossings(live, "gamma", "summed-memory") if facts["kind"] == "masked"]
    assert len(left) == 1  # killed in between, it sent one masked update and no other


def mean_of(live, cases):
    received = live.base.read_weights()["layer.weight"].astype(np.float64)
    shares = {name: support.CASES[name] ** 0.5 for name in cases}
    updates = {name: support.trained(live.sites[name], _order(live, name)).weights["layer.weight"] for name in cases}
    moved = sum(share * (updates[name] - received) for name, share in shares.items())
    return received + moved / sum(shares.values())


def _crossings(live, name, retraining):
    entries = live.sites[name].ledger.entries("border.crossed")
    rows = [json.loads(entry.facts) for entry in entries]
    return [row for row in rows if row["direction"] == "out" and row["retraining"] == retraining]


def test_the_ledgers_of_all_hospitals_name_the_same_sum(live):
    """Each hospital's own people can see who was in it, and compare."""
    said = {
        json.dumps(json.loads(entry.facts) | {"retraining": ""}, sort_keys=True)
        for name in ("alpha", "delta", "gamma")
        for entry in live.sites[name].ledger.entries("retraining.summed")
    }
    assert [json.loads(one)["summed"] for one in said] == ["alpha, delta, gamma"]
    assert all(live.sites[name].ledger.first_break() is None for name in FOUR)
    assert hospitals.own(live.sites["alpha"]) == hospitals.known(live.sites["beta"])["alpha"]
