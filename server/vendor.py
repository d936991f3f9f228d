"""A vendor's first version of a model, trained where the vendor has images, packed and signed."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from torch import nn

from configs.schema import VersionConfig
from models.bundle import Bundle, Facts
from models.change_plan import read as read_change_plan
from models.coding import Coding
from models.errors import ConfigurationError, InvalidTraining
from models.hyperparameters import Hyperparameters
from models.intended_use import IntendedUse, problems
from models.manifest import Row, picture
from models.networks import build
from models.novelty_training import fit as fit_novelty
from models.packing import pack
from models.preprocessing import Preprocessing
from models.stats.calibration import FEWEST, Calibration, calibrate
from models.stats.intervals import auc
from models.stats.threshold import balanced
from models.training import fit, scores

log = logging.getLogger(__name__)


def train_first(
    config: VersionConfig,
    rows: Sequence[Row],
    folder: Path,
    key: Ed25519PrivateKey,
    signer: str,
    on_progress: Callable[[int, int, float], None] | None = None,
    held_out: Sequence[Row] = (),
) -> Bundle:
    """Train version 1 on labelled images, export it with a parity check, pack and sign it.

    The operating threshold is set by the declared rule on the same images.

    Args:
        rows: of a manifest; both labels have to be there.
        folder: where the bundle is made; must not exist.
        on_progress: told (steps done, steps in all, running loss).
        held_out: images of other patients, to calibrate on; without them the version ships no calibration, since its
            scores on the images it was trained on say more than they will ever say again.

    Raises:
        ConfigurationError: a clause of the intended use can never be met, or is no DICOM; a held-out patient was
            trained on, or there are too few to calibrate on.
        InvalidTraining: a label is missing.
        InvalidStudy: an image cannot be read.
        ExportMismatch: ONNX Runtime's scores differ from PyTorch's.
    """
    intended_use = IntendedUse.model_validate(config.intended_use)
    if wrong := problems(intended_use):  # before the training, not after it
        raise ConfigurationError(f"intended use: {'; '.join(wrong)}")
    positive = np.array([row.positive for row in rows])
    if len(set(positive.tolist())) < 2:
        raise InvalidTraining("training needs normal and abnormal images, and one of them is missing")
    if known := {row.patient for row in rows} & {row.patient for row in held_out}:
        raise ConfigurationError(f"{len(known)} of the patients to calibrate on are among those to train on")
    preprocessing = Preprocessing()
    images = np.stack([preprocessing(picture(row.path)) for row in rows])
    network_facts = {key: value for key, value in config.network.items() if key != "name"}
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        network = build(config.network["name"], **network_facts)
    hyper = Hyperparameters.model_validate(config.hyper)
    change_plan = read_change_plan(Path(config.change_plan)) if config.change_plan else None
    fit(
        network,
        images,
        positive.astype(np.float32),
        np.ones(len(rows)),
        hyper,
        seed=config.seed,
        threads=config.threads,
        on_progress=on_progress,
    )
    found = scores(network, images, threads=config.threads).astype(np.float64)
    novelty = fit_novelty(images, [row.patient for row in rows], seed=config.seed)
    _, height, width = images.shape[1:]
    facts = Facts(
        name=config.name,
        number=1,
        title=config.title,
        vendor=config.vendor,
        intended_use=intended_use,
        finding=Coding.model_validate(config.finding),
        threshold=balanced(found, positive),
        threshold_rule="balanced",
        calibration=_calibration(network, preprocessing, held_out, config.threads) if held_out else None,
        input_shape=(1, height, width),
        network=config.network["name"],
        network_facts=network_facts,
        change_plan=change_plan,
    )
    patients = len({row.patient for row in rows})
    log.info("trained on %d images, AUC on them %.3f", len(rows), auc(found, positive).value)
    card = _card(facts, rows, patients, novelty is not None)
    return pack(folder, facts, network, preprocessing, card, key, signer, novelty)


def _calibration(network: nn.Module, preprocessing: Preprocessing, rows: Sequence[Row], threads: int) -> Calibration:
    one_each = list({row.patient: row for row in rows}.values())
    images = np.stack([preprocessing(picture(row.path)) for row in one_each])
    found = scores(network, images, threads=threads).astype(np.float64)
    fitted = calibrate(found, np.array([row.positive for row in one_each]))
    if fitted is None:
        raise ConfigurationError(
            f"{len(one_each)} patients to calibrate on: {FEWEST} normal and {FEWEST} abnormal ones are needed, whom "
            "the scores tell apart"
        )
    return fitted


def _card(facts: Facts, rows: Sequence[Row], patients: int, novelty: bool) -> str:
    sites = ", ".join(sorted({row.site for row in rows}))
    positives = sum(row.positive for row in rows)
    refused = (
        "what looks unlike the training images; 98.5 % of held-out training patients' strongly varied images pass"
        if novelty
        else "nothing: too few patients to set a limit with"
    )
    return f"""# {facts.title} 1

First version by {facts.vendor}, trained on {len(rows)} radiographs of {patients} patients at one source ({sites});
{positives} of them abnormal.

**Intended use.** {facts.intended_use.statement}

**Known limits.** One hospital's equipment and population: expect it to do worse elsewhere. How much worse, each
hospital measures on its own patients.

**Refused by its pixels.** {refused[0].upper()}{refused[1:]}.

**Certificate.** None; not for clinical use.

**Threshold.** {facts.threshold:.4f} (rule: {facts.threshold_rule}, on the training images).

**Calibration.** {_calibrated(facts.calibration)}
"""


def _calibrated(calibration: Calibration | None) -> str:
    if calibration is None:
        return "None shipped: each hospital gets its own from its validated patients."
    return (
        f"On {calibration.positives} abnormal and {calibration.negatives} normal patients who were not trained on; it "
        "stands in until a hospital has its own. Where the finding is rarer than among them, it is less likely than "
        "said."
    )
