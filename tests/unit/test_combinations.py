"""Every strategy with every protection and every encoding: a retraining that can be written works, or says why not."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from client.federation.trainer import Lesson
from configs.schema import CoordinatorConfig
from models.errors import ConfigurationError
from models.networks import build
from models.protection import SecureAggregation
from models.training import get_weights
from scripts.benchmarks import federation
from server.coordinator import Coordinator, create
from server.launch import plan_named
from server.plan import Plan

SITES = ("alpha", "beta", "gamma", "delta", "epsilon")
ROOT = Path(__file__).parents[2] / "configs"
GROUPS = {group: sorted(path.stem for path in (ROOT / group).glob("*.yaml")) for group in ("strategy", "privacy")}
SHORT = ("hyper.steps=1", "hyper.batch_size=12", "rounds=1")
ENCODINGS = sorted(path.stem for path in (ROOT / "compression").glob("*.yaml"))


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory: pytest.TempPathFactory) -> Coordinator:
    made = create(tmp_path_factory.mktemp("combinations") / "coordinator", CoordinatorConfig())
    registered = {site: {"node_id": number, "key_sha256": str(number)} for number, site in enumerate(SITES)}
    (made.folder / "sites.json").write_text(json.dumps(registered))
    return made


def lesson(seed: int) -> Lesson:
    positive, wrong = np.arange(48) % 2 == 1, np.arange(48) < 6
    images = np.random.default_rng(seed).normal(0, 1, (48, 1, 16, 16)).astype(np.float32)
    said = np.where(wrong, np.nan, np.where(positive, 0.6, 0.4))
    return Lesson(images, positive, wrong, np.ones(48), said, tuple(map(str, range(48))))


@pytest.mark.parametrize("privacy", GROUPS["privacy"])
@pytest.mark.parametrize("strategy", GROUPS["strategy"])
def test_what_can_be_written_works_or_says_why_not(coordinator: Coordinator, strategy: str, privacy: str) -> None:
    small = ("network.channels=[8,8,8,8]", "network.groups=4", "network.stride=4")
    facts, _ = federation.facts(small)
    torch.manual_seed(0)
    base = dict(get_weights(build(facts.network, **facts.network_facts)))
    plans, refused = list[Plan](), list[str]()
    for encoding in ENCODINGS:
        chosen = [f"strategy={strategy}", f"privacy={privacy}", f"compression={encoding}"]
        chosen += ["privacy.noise=4"] if privacy.startswith("dp_") else []  # to look for the least takes seconds
        try:
            plans.append(plan_named("x", ["base=x@1", *chosen, *SHORT], coordinator))
        except ConfigurationError as error:
            refused.append(str(error))
    assert all(len(why) > 30 for why in refused)
    assert not (refused and privacy == "none")
    # of those that are summed, test_summed_round.py shows it, with hospitals that mask for each other
    for plan in [plan for plan in plans if not isinstance(plan.privacy, SecureAggregation)][:1]:
        found = federation.retrain(plan, facts, base, {site: lesson(at) for at, site in enumerate(SITES)}, None, 1)
        assert all(np.isfinite(value).all() for value in found.weights.values())
        assert any(not np.array_equal(value, base[name]) for name, value in found.weights.items())
