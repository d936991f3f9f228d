"""What the bench of rounds says of what its contenders told it."""

import json

import pytest

from models.children import ChildFailed
from scripts.benchmarks import rounds
from scripts.benchmarks.flare_poc import FlarePoc, _project
from scripts.benchmarks.rounds import FLOWER, NVFLARE, VIGIE

LOG = """{at},{ms:03} - ServerRunner - INFO - [identity=rounds] - Server runner starting ...
                                Round 0 started.
{at},{ms:03} - FedAvg - INFO - [identity=rounds, run=1, wf=controller] - Sampled clients: ['site-4', 'site-1']
"""


def job(first, *others, training=None):
    found = [{"seconds": seconds} for seconds in (first, *others)]
    return rounds._row([row | ({"training": training} if training else {}) for row in found])


def test_the_first_round_is_apart_and_a_slow_one_changes_no_median():
    assert {key: job(9.0, 1.0, 2.0, 100.0)[key] for key in ("first", "seconds")} == {"first": 9.0, "seconds": 2.0}


@pytest.mark.parametrize(("seconds", "holds"), [(2.0, [True, True]), (2.1, [False, True]), (2.6, [False, False])])
def test_vigie_is_held_against_nvflares_round_and_a_quarter_of_flowers_training(seconds, holds):
    found = {
        f"{VIGIE}, 32 MB": [job(1.0, seconds, seconds)],
        f"{NVFLARE}, 32 MB": [job(9.0, 2.0, 2.0)],
        f"{FLOWER}, 32 MB": [job(9.0, 50.0, 50.0, training=10.0)],
    }

    claims = rounds._report(found, ["32 MB"]).claims

    assert [claim.holds for claim in claims] == holds


def test_a_contender_that_is_not_there_has_no_claim():
    assert not rounds._report({f"{VIGIE}, 32 MB": [job(1.0, 2.0)]}, ["32 MB"]).claims


def test_nvflares_rounds_are_read_from_its_log_and_a_missing_one_is_an_error(tmp_path, monkeypatch):
    lines = "".join(
        LOG.format(at=f"2026-01-01 00:00:{second:02}", ms=ms) for second, ms in ((1, 0), (3, 500), (7, 0), (9, 250))
    )
    said = {
        "submit": f"job_id: {'0' * 8}-{'-'.join(['0' * 4] * 3)}-{'0' * 12}",
        "wait": "FINISHED:COMPLETED",
        "logs": lines,
    }
    poc = FlarePoc(tmp_path / "python", tmp_path / "poc", 4)
    monkeypatch.setattr(poc, "_do", lambda command: said.get(command[2], ""))

    assert poc.rounds(tmp_path / "weights.npy", 3) == [2.5, 3.5, 2.25]
    with pytest.raises(ChildFailed, match="4 rounds"):
        poc.rounds(tmp_path / "weights.npy", 4)


def test_nvflare_is_given_free_ports_and_as_many_clients_as_there_are_sites():
    project = json.loads(json.dumps(_project(4)))
    (server,) = (one for one in project["participants"] if one["type"] == "server")

    assert sum(one["type"] == "client" for one in project["participants"]) == 4
    assert server["fed_learn_port"] != server["admin_port"]
