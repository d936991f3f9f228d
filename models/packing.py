"""From a trained network to a signed version on disk."""

import json
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from importlib.metadata import version as installed
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray
from torch import nn

from models.bundle import NOVELTY, SIGNATURE, VOLUME_NOVELTY, WEIGHTS, Bundle, Facts, seal, verify
from models.errors import ConfigurationError, ExportMismatch
from models.export import export_onnx, parity, volume_parity
from models.intended_use import problems
from models.novelty import Novelty, load
from models.preprocessing import Preprocessing
from models.training import get_weights, scores
from models.volume_novelty import VolumeNovelty
from models.volume_novelty import load as load_volume_novelty


def pack(
    folder: Path,
    facts: Facts,
    network: nn.Module,
    preprocessing: Preprocessing,
    card: str,
    key: Ed25519PrivateKey,
    signer: str,
    novelty: Novelty | None = None,
) -> Bundle:
    """Export, describe and sign a version.

    Args:
        folder: made; must not exist.
        network: gives logits (N, 1) for `facts.input_shape`.
        card: the model card, Markdown.
        signer: the name under which hospitals know the key.
        novelty: refuses images unlike the training cohort's; for a retrained version, its base's.

    Raises:
        ConfigurationError: a clause of the intended use can never be met, or is no DICOM.
        InvalidPreprocessing: the declared steps fail on a made-up picture, or make another shape than the network's.
        ExportMismatch: ONNX Runtime's scores differ from PyTorch's by more than 1e-4.
    """
    if wrong := problems(facts.intended_use):
        raise ConfigurationError(f"intended use: {'; '.join(wrong)}")
    preprocessing.prove(facts.input_shape, volumes=False)
    with _beside(folder) as making:
        _write(making, facts, network, preprocessing, card, novelty)
        seal(making, key, signer)
    return verify(folder, {signer: key.public_key()})


def _write(
    folder: Path, facts: Facts, network: nn.Module, preprocessing: Preprocessing, card: str, novelty: Novelty | None
) -> None:
    *_, height, width = facts.input_shape
    export_onnx(network, (height, width), folder / "models" / "model.onnx")
    # noise, not a patient: the reference travels with the version to everyone
    reference = np.random.default_rng(0).normal(size=(3, 1, height, width)).astype(np.float32)
    parity(network, folder / "models" / "model.onnx", reference)
    np.save(folder / "reference" / "input.npy", reference)
    expected = {"scores": [float(score) for score in scores(network, reference)]}
    (folder / "reference" / "expected.json").write_text(json.dumps(expected))
    np.savez(folder / WEIGHTS, allow_pickle=False, **get_weights(network))
    if novelty is not None:
        novelty.save(folder / NOVELTY)
        load(folder / NOVELTY)  # what no hospital could load is not signed
    _describe(folder, facts, preprocessing, card)


def repack(
    folder: Path, version: Bundle, facts: Facts, network: nn.Module, card: str, key: Ed25519PrivateKey, signer: str
) -> Bundle:
    """A version that is another one with other weights: what does not follow from those is taken over byte for byte.

    Args:
        folder: made; must not exist.
        network: gives logits (N, 1) for the version's input.

    Raises:
        ConfigurationError: `folder` is there.
        ExportMismatch: ONNX Runtime's scores differ from PyTorch's by more than 1e-4.
    """
    *_, height, width = version.facts.input_shape
    with _beside(folder) as making:
        shutil.copytree(version.folder, making, dirs_exist_ok=True)
        (making / SIGNATURE).unlink()
        export_onnx(network, (height, width), making / "models" / "model.onnx")
        reference = np.load(making / "reference" / "input.npy", allow_pickle=False)
        parity(network, making / "models" / "model.onnx", reference)
        expected = {"scores": [float(score) for score in scores(network, reference)]}
        (making / "reference" / "expected.json").write_text(json.dumps(expected))
        np.savez(making / WEIGHTS, allow_pickle=False, **get_weights(network))
        (making / "configs" / "metadata.json").write_text(json.dumps(_metadata(facts), indent=2))
        (making / "docs" / "README.md").write_text(card)
        seal(making, key, signer)
    return verify(folder, {signer: key.public_key()})


@contextmanager
def _beside(folder: Path) -> Generator[Path]:
    """A folder to make a version in, which gets its name when all is done; what fails leaves nothing behind.

    Raises:
        ConfigurationError: there is something of that name.
    """
    if folder.exists():
        raise ConfigurationError(f"{folder} is there already")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as name:
        making = Path(name) / folder.name
        for part in ("configs", "models", "docs", "reference"):
            (making / part).mkdir(parents=True)
        yield making
        making.rename(folder)


def pack_segmentation(
    folder: Path,
    facts: Facts,
    onnx: bytes,
    preprocessing: Preprocessing,
    card: str,
    key: Ed25519PrivateKey,
    signer: str,
    network: nn.Module | None = None,
    novelty: VolumeNovelty | None = None,
) -> Bundle:
    """Describe and sign a version that outlines in volumes, from an ONNX file as vendors have one.

    Args:
        folder: made; must not exist.
        facts: with a segmentation block.
        onnx: takes `image` (n, 1, *window), gives `logits` (n, channels, *window), float32.
        network: what the file was exported from, of the architecture that the facts name; its weights then travel
            along, and a hospital may compute it with PyTorch where that is faster.
        novelty: refuses volumes unlike the training cohort's; the card says whether there is one.

    Raises:
        ConfigurationError: a clause of the intended use can never be met, or is no DICOM.
        InvalidPreprocessing: the declared steps fail on a made-up volume, or change its shape.
        ExportMismatch: the network has other inputs or outputs, gives no finite number, or other ones than the file.
    """
    if wrong := problems(facts.intended_use):
        raise ConfigurationError(f"intended use: {'; '.join(wrong)}")
    if facts.segmentation is None:
        raise ExportMismatch(f"{facts.label} declares no segmentation")
    preprocessing.prove(facts.input_shape, volumes=True)
    with _beside(folder) as making:
        _write_segmentation(making, facts, onnx, preprocessing, card, network, novelty)
        seal(making, key, signer)
    return verify(folder, {signer: key.public_key()})


def _write_segmentation(
    folder: Path,
    facts: Facts,
    onnx: bytes,
    preprocessing: Preprocessing,
    card: str,
    network: nn.Module | None,
    novelty: VolumeNovelty | None,
) -> None:
    (folder / "models" / "model.onnx").write_bytes(onnx)
    # noise, not a patient: the reference travels with the version to everyone
    reference = np.random.default_rng(0).normal(size=(1, *facts.input_shape)).astype(np.float32)
    np.save(folder / "reference" / "input.npy", reference)
    expected = _logits(folder / "models" / "model.onnx", reference, facts)
    np.save(folder / "reference" / "expected.npy", expected)
    if network is not None:
        volume_parity(network, expected, reference)
        np.savez(folder / WEIGHTS, allow_pickle=False, **get_weights(network))
    if novelty is not None:
        novelty.save(folder / VOLUME_NOVELTY)
        load_volume_novelty(folder / VOLUME_NOVELTY)  # what no hospital could load is not signed
    _describe(folder, facts, preprocessing, f"{card.rstrip()}\n\n{_refused(novelty)}\n")


def _refused(novelty: VolumeNovelty | None) -> str:
    what = (
        "A series whose size, intensities or middle planes are unlike the training volumes', beyond a distance of "
        f"{novelty.limit:.2f} (1 is where the oddest twentieth of held-out training patients begins)"
        if novelty
        else "Nothing: the version ships no check of them, and takes a series' headers at their word"
    )
    return f"**Refused by its voxels.** {what}."


def _logits(path: Path, reference: NDArray[np.float32], facts: Facts) -> NDArray[np.float32]:
    import onnxruntime  # either build of it is an extra

    assert facts.segmentation is not None  # asked before
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        logits = cast("NDArray[np.float32]", session.run(["logits"], {"image": reference})[0])
    except Exception as error:  # onnxruntime raises a dozen unrelated types
        raise ExportMismatch(f"{facts.label}: the network does not run: {error}") from error
    expected = (1, facts.segmentation.channels, *facts.segmentation.window)
    if logits.shape != expected or not np.isfinite(logits).all():
        raise ExportMismatch(f"{facts.label}: logits of {logits.shape}, not {expected}, or no finite number")
    return logits


def _describe(folder: Path, facts: Facts, preprocessing: Preprocessing, card: str) -> None:
    inference = {
        "preprocessing": {"_target_": "Compose", "transforms": [dict(step) for step in preprocessing.declaration]}
    }
    (folder / "configs" / "inference.json").write_text(json.dumps(inference, indent=2))
    (folder / "configs" / "metadata.json").write_text(json.dumps(_metadata(facts), indent=2))
    (folder / "docs" / "README.md").write_text(card)


def _metadata(facts: Facts) -> dict[str, Any]:
    """MONAI's bundle metadata; what MONAI has no place for stands under "vigie"."""
    channels, *sides = facts.input_shape
    outlined = facts.segmentation
    image = {
        "type": "image",
        "format": "magnitude",
        "modality": "/".join(facts.intended_use.modalities),
        "num_channels": channels,
        "spatial_shape": sides,
        "dtype": "float32",
        "value_range": [],
        "is_patch_data": outlined is not None,
        "channel_def": {"0": "image"},
    }
    score: dict[str, Any] = {
        "type": "probabilities",
        "format": "classes",
        "num_channels": 1,
        "spatial_shape": [],
        "dtype": "float32",
        "value_range": [0, 1],
        "is_patch_data": False,
        "channel_def": {"0": facts.finding.meaning},
    }
    if outlined is not None:
        first = 0 if outlined.activation == "softmax" else 1
        score |= {
            "type": "probabilities",
            "format": "segmentation",
            "num_channels": outlined.channels,
            "spatial_shape": sides,
            "is_patch_data": True,
            "channel_def": ({} if first else {"0": "background"})
            | {str(label.value - first): label.name for label in outlined.labels},
        }
    return {
        "version": f"{facts.number}.0.0",
        "changelog": {f"{facts.number}.0.0": facts.retraining or "first version"},
        "monai_version": installed("monai"),
        "pytorch_version": installed("torch"),
        "numpy_version": installed("numpy"),
        "required_packages_version": {"onnxruntime": _runtime()},
        "name": facts.title,
        "task": facts.finding.meaning,
        "description": facts.intended_use.statement,
        "authors": facts.vendor,
        "copyright": facts.vendor,
        "intended_use": facts.intended_use.statement,
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": score}},
        "vigie": facts.model_dump(mode="json"),
    }


def _runtime() -> str:
    # either build gives the same module
    import onnxruntime

    return str(onnxruntime.__version__)
