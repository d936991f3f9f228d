"""What is wrong with settings, plans and bundles is told on one line, and never with the value."""

import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from models import durable
from models.children import free_port
from models.errors import ConfigurationError, Conflict
from models.hyperparameters import Hyperparameters
from models.pki import make_server
from models.validation import told
from scripts import vigie
from server import plan
from server.plan import Plan, load, save
from server.superlink import SuperLink, SuperLinkRefused


def _plan(**changes: object) -> Plan:
    return Plan.model_validate({"name": "spring", "base": "chest@1", "sites": ("nih",), "quorum": 1, **changes})


def test_a_problem_is_one_line_with_its_field_and_without_its_value() -> None:
    with pytest.raises(ValidationError) as caught:
        Plan.model_validate({"name": "SECRET NAME", "base": "chest@1", "sites": ("nih",), "quorum": 0, "more": 1})
    said = told(caught.value)
    assert "\n" not in said
    assert "SECRET" not in said
    assert "quorum: Input should be greater than or equal to 1" in said
    assert "more: Extra inputs are not permitted" in said
    assert "pydantic.dev" not in said


def test_the_command_says_so_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["vigie", "version", "explain", "--set", "intended_use.min_age_years=soon"])
    with pytest.raises(SystemExit) as ended:
        vigie.main()
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("vigie: configuration: ")


def test_a_coordinator_that_is_down_is_said_with_what_to_do(tmp_path: Path) -> None:
    make_server(tmp_path / "pki", ["127.0.0.1"])
    with pytest.raises(
        SuperLinkRefused, match=r"nothing answers at 127\.0\.0\.1:.*`vigie coordinator run --folder"
    ) as caught:
        SuperLink(tmp_path, free_port()).online()
    assert "\n" not in str(caught.value)


def test_a_plan_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(durable.os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            save(_plan(), tmp_path)
    assert not (tmp_path / "retrainings" / "spring" / plan.PLAN).exists()
    save(_plan(), tmp_path)
    assert load(tmp_path, "spring") == _plan()
    save(_plan(), tmp_path)  # the very same one
    with pytest.raises(Conflict):
        save(_plan(hyper=Hyperparameters(steps=7)), tmp_path)
    (tmp_path / "retrainings" / "spring" / plan.PLAN).write_text("{")
    with pytest.raises(ConfigurationError, match=r"plan\.json: Invalid JSON"):
        load(tmp_path, "spring")
