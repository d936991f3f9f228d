"""Made-up hospitals and the version that they serve: real folders, keys, databases and ledgers, with drawn thoraxes.

Each hospital has a look of its own (contrast, blur, noise, how faint an opacity is), so that one version does better at
some than at others. Who was read and what a clinician said of it is written into the hospital's tables as a node would
leave it; nothing is sent by DICOM, and nothing is put into a PACS.
"""

import io
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from client.review import readers
from client.store import versions
from client.store.archive import Archive
from client.store.site import Site, create
from configs.schema import ConsentConfig, PrivacyConfig, SiteConfig
from models.bundle import Bundle, Facts
from models.coding import Coding
from models.hyperparameters import Hyperparameters
from models.intended_use import IntendedUse
from models.manifest import Row
from models.networks import build
from models.packing import pack
from models.pki import make_supernode
from models.preprocessing import DEFAULT, Preprocessing
from models.signing import make_key
from models.stats.threshold import balanced
from models.training import fit, scores
from scripts.answered import enter
from scripts.demonstration.phantoms import LOOKS, Look, draw
from scripts.demonstration.studies import radiograph

MODEL = "thorax-phantom"
READER = "Dr Truth"
SIDE = 64
_NETWORK = {"channels": [8, 8, 16, 16], "groups": 4, "stride": 2}
_HYPER = Hyperparameters(steps=60, batch_size=32, learning_rate=3e-3)
_VENDORS = Look(160, SIDE, 1.0, 0.6, 0.02, 0.35)
_CARD = "# Thorax phantoms 1\n\nTrained on drawn pictures, for a simulation; of no use on any patient.\n"


@dataclass(frozen=True, slots=True)
class Pictures:
    """Drawn thoraxes (N, size, size), every other one abnormal."""

    pixels: NDArray[np.uint8]
    positive: NDArray[np.bool_]


def names(count: int) -> list[str]:
    """What so many hospitals are called; the order of the names is that of the numbers."""
    width = len(str(count))
    return [f"hospital-{number:0{width}d}" for number in range(1, count + 1)]


def first_version(folder: Path, seed: int) -> Bundle:
    """Train and sign the version that every hospital serves; a vendor's key is made beside it.

    Args:
        folder: of the vendor; holds `vendor.key`, `vendor.pub` and `bundle` afterwards.
    """
    key: Ed25519PrivateKey = make_key(folder / "vendor.key")
    seen = _pictures(np.random.default_rng([seed, 0]), _VENDORS)
    preprocessing = Preprocessing([{**DEFAULT[0], "spatial_size": [SIDE, SIDE]}, *DEFAULT[1:]])
    images = np.stack([preprocessing(one.astype(np.float32)) for one in seen.pixels])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build("residual", **_NETWORK)
    fit(network, images, seen.positive.astype(np.float32), np.ones(len(images)), _HYPER, seed=seed)
    facts = Facts(
        name=MODEL,
        number=1,
        title="Thorax phantoms",
        vendor="Simulation",
        intended_use=IntendedUse(
            statement="Drawn thoraxes.", modalities=("DX",), sop_classes=("1.2.840.10008.5.1.4.1.1.1.1",)
        ),
        finding=Coding(value="263654008", scheme="SCT", meaning="Abnormal"),
        threshold=balanced(scores(network, images).astype(np.float64), seen.positive),
        threshold_rule="balanced",
        input_shape=(1, SIDE, SIDE),
        network="residual",
        network_facts=_NETWORK,
    )
    return pack(folder / "bundle", facts, network, preprocessing, _CARD, key, "vendor")


def make(folder: Path, name: str, number: int, seed: int, patients: int, served: Bundle, keys: Sequence[Path]) -> Site:
    """Make a hospital that serves a version, and whose readers have said what is true of each of its patients.

    Args:
        number: which hospital it is, from 0; with the seed it fixes look, pictures and folds.
        keys: public keys of whom it trusts.
    """
    draws = np.random.default_rng([seed, 1, number])
    config = SiteConfig(
        name=name,
        institution=name,
        inference_threads=1,
        consent=ConsentConfig(standing="retrainings", most_rounds=1000, most_retrainings=1000),
        privacy=PrivacyConfig(epsilon=100.0),
    )
    site = create(folder, config, fold_key=draws.bytes(32))
    for key in keys:
        shutil.copy(key, site.trust / key.name)
    make_supernode(site.secrets / "supernode.key")
    # one machine measures once what is fast on it
    site.measured.symlink_to(folder.parent / "measured", target_is_directory=True)
    shutil.copytree(served.folder, site.versions / served.digest)
    versions.receive(site, served)
    versions.adopt(site, served.digest)
    readers.add(site, READER, "clinician")
    _read(site, served, _pictures(draws, _look(draws, patients)))
    site.database.close()
    return site


def _look(draws: np.random.Generator, patients: int) -> Look:
    """One between those of the demonstration's hospitals."""
    kinds = list(LOOKS.values())
    gamma, blur, noise, opacity = (
        float(draws.uniform(min(values), max(values)))
        for values in zip(*((one.gamma, one.blur, one.noise, one.opacity) for one in kinds), strict=True)
    )
    return Look(patients, SIDE, gamma, blur * SIDE / max(one.size for one in kinds), noise, opacity)


def _pictures(draws: np.random.Generator, look: Look) -> Pictures:
    positive = np.arange(look.patients) % 2 == 1
    return Pictures(np.stack([draw(draws, look, bool(one)) for one in positive]), positive)


def _read(site: Site, served: Bundle, seen: Pictures) -> None:
    """Have the version read every patient's study, and a reader answer it."""
    network = build(served.facts.network, **served.facts.network_facts)
    network.load_state_dict({name: torch.from_numpy(value) for name, value in served.read_weights().items()})
    preprocessing = Preprocessing(served.preprocessing)
    said = scores(network, np.stack([preprocessing(one.astype(np.float32)) for one in seen.pixels]))
    archive = Archive(site.archive)
    with site.database.write() as connection:
        for number, (pixels, positive, score) in enumerate(zip(seen.pixels, seen.positive, said, strict=True)):
            who = f"{site.config.name}-{number:04d}"
            row = Row(number, who, site.folder, site.config.name, bool(positive), who)
            image = radiograph(row, pixels, seed=0, sending=1)
            told: Any = {"score": float(score), "threshold": served.facts.threshold, "positive": bool(positive)}
            enter(connection, site, image, archive.store(_file(image)), served.digest, READER, **told)


def _file(image: Dataset) -> bytes:
    file = io.BytesIO()
    image.save_as(file, enforce_file_format=True)
    return file.getvalue()
