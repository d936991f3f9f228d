"""This hospital's own form of an offered version: the version, with the layers that the hospital trained and kept.

Only a hospital that trained has one; any other is offered the version as it is. The local part is looked for under the
retraining that made the version, and counts only where it was trained from the base that the version was made from. A
form is made once: offered again, the version has the form that it had.
"""

import logging
import re
import shutil
from typing import Any

from numpy.typing import NDArray

from client.federation.kept import Memory
from client.store import versions
from client.store.countersigned import SIGNER, countersigning_key, verified
from client.store.site import Site
from models.bundle import Bundle, Facts
from models.networks import build
from models.packing import repack
from models.personal import Personal, part_digest, problem
from models.training import set_weights

log = logging.getLogger(__name__)

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}", re.ASCII)


def form_of(site: Site, offered: Bundle) -> Bundle | None:
    """The form in which this hospital would serve an offered version; None: as it is.

    Raises:
        BundleRefused: the form that was made before is no longer what this hospital signed.
        ExportMismatch: the exported form gives other scores than the trained one.
    """
    if (made := versions.form_of(site, offered.digest)) is not None:
        return verified(site, made.digest)
    known = versions.find(site, offered.digest)
    # judged or adopted as it is, before there was a part of one's own: that stands
    if known is None or known.decision is not None or known.state not in ("offered", "shadow"):
        return None
    part = _part(site, offered)
    if not part:
        return None
    form = _make(site, offered, part)
    versions.receive(site, form, form_of=offered.digest)
    return form


def _part(site: Site, offered: Bundle) -> dict[str, NDArray[Any]]:
    """The tensors of this hospital's own, where they differ from the version's at all."""
    facts = offered.facts
    if facts.retraining is None or facts.parent is None or not _NAME.fullmatch(facts.retraining):
        return {}
    kept = Memory(site.retrainings, facts.retraining).last()
    if not kept.local or kept.base != facts.parent:
        return {}
    weights = offered.read_weights()
    if why := problem(kept.local, weights, facts.changes):
        log.warning("%s: this hospital's own layers are not used: %s", facts.label, why)
        return {}
    if all((kept.local[name] == weights[name]).all() for name in kept.local):
        return {}
    return dict(kept.local)


def _make(site: Site, offered: Bundle, part: dict[str, NDArray[Any]]) -> Bundle:
    said = Personal(of=offered.digest, layers=tuple(sorted(part)), part=part_digest(part))
    facts = offered.facts.model_copy(update={"personal": said})
    network = build(facts.network, **facts.network_facts)
    set_weights(network, {**offered.read_weights(), **part})
    making = site.versions / f".form-{offered.digest[:16]}"
    for left in site.versions.glob(f"*{making.name}*"):  # by a crash
        shutil.rmtree(left)
    made = repack(making, offered, facts, network, _card(facts, offered), countersigning_key(site), SIGNER)
    final = site.versions / made.digest
    if final.exists():  # made before a crash, and not entered
        shutil.rmtree(making)
    else:
        making.rename(final)
    return verified(site, made.digest)


def _card(facts: Facts, offered: Bundle) -> str:
    assert facts.personal is not None  # made so above
    layers = ", ".join(f"`{name}`" for name in facts.personal.layers)
    return f"""# {facts.title} {facts.edition}

This hospital's own form of {offered.facts.label} (`{offered.digest}`), signed by {offered.signer}. The layers below are
those that this hospital trained and kept (`{facts.personal.part}`); everything else is the version's. The hospital has
signed both together. It stays here: other hospitals and the coordinator have never seen these layers.

{layers}

{offered.card}"""
