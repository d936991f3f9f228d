"""What an offered version has to be, beyond signed and whole, before this hospital's cases judge it.

A version that a retraining made is its base with other weights: in the layers that the base's change plan lets change,
and nothing else. It gives the answers of its base, or of its task, and no others.
"""

import shutil
from pathlib import Path

import numpy as np
import onnx

from client.store import versions
from client.store.site import Site
from models.bounds import Bounds
from models.bundle import NOVELTY, VOLUME_NOVELTY, Bundle, from_archive
from models.change_plan import departures
from models.errors import BundleRefused
from models.exchange import Offer
from models.signing import load_trust
from models.terms import Terms


def check(site: Site, offer: Offer, agreed: Terms) -> None:
    """Refuse a version that is not what was agreed to; of one that is refused nothing stays.

    Raises:
        BundleRefused: altered, unsigned, not the one announced, of another retraining, or changed beyond its base's
            change plan.
    """
    bundle = from_archive(offer.bundle, site.versions, load_trust(site.trust))
    try:
        if bundle.digest != offer.digest:
            raise BundleRefused("the bundle is not the version that was announced")
        if bundle.facts.personal is not None:
            raise BundleRefused(f"{bundle.facts.label}: a hospital's own form of a version comes from nowhere else")
        if agreed.rounds:
            base = versions.held(site, agreed.base)
            if base is None:
                raise BundleRefused(f"{bundle.facts.label}: its base is not here")
            _of_retraining(bundle, base, agreed)
            _answers(bundle, _outputs(base))
        elif bundle.facts.segmentation is None:
            _answers(bundle, ["logit", "cam"])
    except BundleRefused:
        if versions.find(site, bundle.digest) is None:
            shutil.rmtree(bundle.folder)
        raise


def _of_retraining(bundle: Bundle, base: Bundle, agreed: Terms) -> None:
    facts, label = bundle.facts, bundle.facts.label
    if facts.retraining != agreed.name or facts.parent != agreed.base:
        raise BundleRefused(f"{label}: made by another retraining, or from another base")
    if facts.certified or facts.calibration is not None:
        raise BundleRefused(f"{label}: a retrained version has no certificate and no calibration")
    if other := departures(base.facts.model_dump(), facts.model_dump()):
        raise BundleRefused(f"{label}: {', '.join(other)} may not change by a retraining")
    if bundle.preprocessing != base.preprocessing:
        raise BundleRefused(f"{label}: its preprocessing may not change by a retraining")
    for name in (NOVELTY, VOLUME_NOVELTY):
        if not _same_arrays(bundle.folder / name, base.folder / name):
            raise BundleRefused(f"{label}: its check of images may not change by a retraining")
    free, after, before = Bounds(np.inf, agreed.layers), bundle.read_weights(), base.read_weights()
    if after.keys() != before.keys():
        raise BundleRefused(f"{label}: its weights are not its base's")
    if any(not free.covers(name) and not np.array_equal(after[name], before[name]) for name in before):
        raise BundleRefused(f"{label}: layers changed that were not to")


def _answers(bundle: Bundle, expected: list[str]) -> None:
    """No output beside those of the task: nobody reads it today, and it would be a place to put things."""
    if sorted(_outputs(bundle)) != sorted(expected):
        raise BundleRefused(f"{bundle.facts.label}: its network has other outputs than its task")


def _outputs(bundle: Bundle) -> list[str]:
    try:
        return [output.name for output in onnx.load(str(bundle.onnx), load_external_data=False).graph.output]
    except Exception as error:
        raise BundleRefused(f"{bundle.facts.label}: no readable network ({type(error).__name__})") from error


def _same_arrays(one: Path, other: Path) -> bool:
    if not one.exists() or not other.exists():
        return one.exists() == other.exists()
    with np.load(one, allow_pickle=False) as first, np.load(other, allow_pickle=False) as second:
        return set(first.files) == set(second.files) and all(
            np.array_equal(first[name], second[name], equal_nan=first[name].dtype.kind == "f") for name in first.files
        )
