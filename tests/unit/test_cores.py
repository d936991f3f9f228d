"""Threads are counted by what the process may use, not by what the machine has."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from client.cores import Cores, allowed
from client.store import site as site_module
from client.store.site import Site
from configs.schema import SiteConfig
from models.errors import ConfigurationError


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Cores]:
    """`machine(cores, bound, {file: content}, membership)`: what `allowed` says there."""

    def look(cores: int, bound: int, files: dict[str, str], membership: str) -> Cores:
        monkeypatch.setattr(os, "cpu_count", lambda: cores)
        monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(bound)))
        for name, content in files.items():
            (tmp_path / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "cgroup" / name).write_text(content)
        (tmp_path / "membership").write_text(membership)
        return allowed(tmp_path / "cgroup", tmp_path / "membership")

    return look


@pytest.mark.parametrize(
    ("bound", "files", "membership", "count"),
    [
        (64, {}, "0::/\n", 64),
        (4, {}, "0::/\n", 4),
        (64, {"cpu.max": "max 100000\n"}, "0::/\n", 64),
        (64, {"vigie.slice/node.service/cpu.max": "250000 100000\n"}, "0::/vigie.slice/node.service\n", 2),
        (64, {"vigie.slice/cpu.max": "300000 100000", "vigie.slice/n/cpu.max": "max 100000"}, "0::/vigie.slice/n\n", 3),
        (64, {"cpu.max": "50000 100000"}, "0::/\n", 1),
        (64, {"cpu.max": "nonsense"}, "0::/\n", 64),
        (
            64,
            {"cpu,cpuacct/docker/x/cpu.cfs_quota_us": "400000", "cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000"},
            "4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n",
            4,
        ),
        (2, {"cpu.max": "800000 100000"}, "0::/\n", 2),
    ],
)
def test_the_tightest_limit_counts(
    machine: Callable[..., Cores], bound: int, files: dict[str, str], membership: str, count: int
) -> None:
    found = machine(64, bound, files, membership)
    assert found.count == count
    assert found.to_compute == max(1, count - 1)


def test_a_setting_wins_over_the_count_up_to_the_cores(
    make_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_module, "allowed", lambda: Cores(8, "played"))
    assert make_site("free").threads == 7
    assert make_site("set", inference_threads=3).threads == 3
    assert make_site("many", inference_threads=10_000).threads == 8
    with pytest.raises(ConfigurationError, match="inference_threads"):
        SiteConfig(inference_threads=-1)
