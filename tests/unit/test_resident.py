"""The trainer stays, is ended without harm, and gives way: the clinic comes first."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from client.federation import resident
from client.federation.resident import Resident, WorkFailed
from models.exchange import Release

ROOT = Path(__file__).parents[2]
STAND_IN = """
import os, sys, time, types
from client.federation import resident
from models.errors import TooFewCases

def work(what, site, order):
    if order.retraining == "slow":
        time.sleep(60)
    if order.retraining == "few":
        raise TooFewCases("2 training cases")
    if order.retraining == "raises":
        raise ValueError("DUPONT")
    if order.retraining == "large":
        bytearray(8 << 30)
    return (os.getpid(), os.sched_getscheduler(0), os.nice(0), open("/proc/self/oom_score_adj").read().strip())

resident._do = work
resident.importlib = types.SimpleNamespace(import_module=lambda name: None)
sys.exit(resident.main())
"""


def order(name: str) -> Release:
    return Release(retraining=name, digest="a" * 64, released=True)


@pytest.fixture
def trainer(site, tmp_path, monkeypatch):
    """The real process but for what it works: the child says who it is, or does as the order's name says."""
    program = tmp_path / "trainer.py"
    program.write_text(STAND_IN)
    start = subprocess.Popen

    def popen(words, env, **given):
        return start([sys.executable, str(program), *words[3:]], env=env | {"PYTHONPATH": str(ROOT)}, **given)

    monkeypatch.setattr(resident, "subprocess", SimpleNamespace(Popen=popen))
    made = Resident(site.folder)
    made.start()
    yield made
    made.stop()


def test_each_order_is_worked_on_in_a_child_that_gives_way(site, trainer) -> None:
    first, second = (resident.settle(site, order("now")) for _ in range(2))
    trainer.start()  # it runs: nothing happens
    assert first[0] != second[0] != trainer._process.pid
    assert first[1:] == (os.SCHED_IDLE, 19, "1000")
    # what it loads while hospitals are asked is not at the end of the queue
    assert os.sched_getscheduler(trainer._process.pid) == os.SCHED_OTHER


@pytest.mark.parametrize(("name", "code"), [("few", "too-few-cases"), ("raises", "failed"), ("large", "failed")])
def test_what_goes_wrong_comes_back_as_its_code_and_the_next_order_is_worked_on(site, trainer, name, code) -> None:
    with pytest.raises(WorkFailed) as raised:
        resident.settle(site, order(name))
    assert raised.value.code == code
    assert "DUPONT" not in str(raised.value)
    assert resident.settle(site, order("now"))


@pytest.mark.parametrize("who", ["trainer", "child"])
def test_a_trainer_that_was_killed_is_said_and_started_again(site, trainer, eventually, who) -> None:
    import threading

    told: list[str] = []

    def ask() -> None:
        try:
            resident.settle(site, order("slow"))
        except WorkFailed as error:
            told.append(error.code)

    asking = threading.Thread(target=ask)
    asking.start()
    process = psutil.Process(trainer._process.pid)
    eventually(lambda: process.children())
    (child,) = process.children()
    (process if who == "trainer" else child).kill()
    asking.join(20)
    assert told == ["interrupted"]
    _, left = psutil.wait_procs([child], timeout=30)
    assert not left  # two of them would write the same files
    deadline = time.monotonic() + 20
    while trainer._process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    trainer.start()
    assert resident.settle(site, order("now"))


def test_a_bound_on_memory_is_what_is_set(monkeypatch) -> None:
    said = []
    monkeypatch.setattr(resident, "resource", SimpleNamespace(
        setrlimit=lambda what, limits: said.append((what, limits)), RLIMIT_DATA=resource.RLIMIT_DATA))  # fmt: skip
    assert resident.bound_memory(3000) == 3000 << 20
    assert resident.bound_memory(0) >= 2048 << 20
    assert said[0] == (resource.RLIMIT_DATA, (3000 << 20, 3000 << 20))
