"""From the averaged weights of a retraining to a signed candidate version."""

import shutil
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from models.bundle import Bundle, Facts
from models.networks import build
from models.packing import pack
from models.preprocessing import Preprocessing
from models.training import set_weights
from server.coordinator import SIGNER, Coordinator
from server.plan import Plan


def make(
    coordinator: Coordinator,
    plan: Plan,
    base: Bundle,
    weights: dict[str, NDArray[Any]],
    threshold: float,
    contributions: dict[str, int],
) -> Bundle:
    """Pack the weights as the next version of the base's model, signed by the coordinator.

    It inherits the base's intended use, preprocessing and novelty check, and no certificate.

    Args:
        threshold: 0..1, the operating threshold to ship; sites set their own by the declared rule.
        contributions: cases per hospital in the last round.
    """
    number = coordinator.registry.next_number(base.facts.name)
    facts = base.facts.model_copy(
        update={
            "number": number,
            "threshold": threshold,
            "calibration": None,  # the base's is of other weights, and the coordinator has no patients
            "parent": base.digest,
            "retraining": plan.name,
            "certified": False,
        }
    )
    network = build(facts.network, **facts.network_facts)
    set_weights(network, weights)
    folder = coordinator.folder / "retrainings" / plan.name / "candidate"
    if folder.exists():  # left by a crash before it was registered
        shutil.rmtree(folder)
    packed = pack(
        folder,
        facts,
        network,
        Preprocessing(base.preprocessing),
        _card(facts, base, plan, contributions),
        coordinator.signing_key,
        SIGNER,
        # The coordinator has no images to fit another one on. The check looks at preprocessed images and not at what
        # the network makes of them, so that it stays as good as it was, whatever the weights are.
        base.read_novelty(),
    )
    return _keep(packed, coordinator.versions)


def _keep(bundle: Bundle, versions: Path) -> Bundle:
    final = versions / bundle.digest
    if final.exists():
        shutil.rmtree(bundle.folder)
    else:
        bundle.folder.rename(final)
    return Bundle(final, bundle.digest, bundle.signer, bundle.facts)


def _card(facts: Facts, base: Bundle, plan: Plan, contributions: dict[str, int]) -> str:
    learned = "\n".join(f"| {site} | {cases} |" for site, cases in sorted(contributions.items()))
    return f"""# {facts.title} {facts.number}

Retrained from {base.facts.label} (`{base.digest[:12]}…`) in the retraining `{plan.name}`: {plan.rounds} rounds,
strategy {plan.strategy}, at the hospitals below, on cases that clinicians validated there; errors weighted
{plan.hyper.error_weight:g} times. No image left a hospital.

| hospital | training cases in the last round |
| --- | --- |
{learned}

**Intended use.** {facts.intended_use.statement}

**Certificate.** None: a retrained version inherits none. Without the manufacturer's declaration it may not be used
for care where the law asks for one.

**Threshold.** {facts.threshold:.4f} as shipped (mean of the hospitals' own); each hospital sets its own on its training
patients (rule: {facts.threshold_rule}).

**Validation.** Per hospital, with intervals, in the registry; each hospital's adoption gate decides for itself.
"""
