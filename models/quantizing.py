"""From a version to the same network in fewer bits: another version, with another number, digest and signature.

It inherits no certificate and no hospital's decision. Its reference cases are what it computes itself, so that the self
test proves that it is computed rightly; whether it is as good as its base, each hospital's gate says. It ships no
weights: nothing is trained from it.

INT8 with calibration images is static (scales of the activations are fixed, so that an image's score does not depend on
its neighbours in a batch); without, only scales of the weights are fixed and those of the activations are found at each
run, which is slower for convolutions. Weights take seven bits where activations are calibrated: eight overflow in the
16-bit sums of processors without VNNI. Source: onnxruntime.quantization, `quantize_static`.
"""

import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, cast, get_args

import numpy as np
import onnx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from models.bundle import MANIFEST, SIGNATURE, WEIGHTS, Bundle, Facts, seal
from models.errors import ConfigurationError, ExportMismatch
from models.segmentation import activate, decide
from models.stats.intervals import auc

if TYPE_CHECKING:
    from onnxruntime.quantization import CalibrationDataReader

log = logging.getLogger(__name__)

Precision = Literal["float16", "int8"]
Floats = NDArray[np.float32]

MAX_CALIBRATION: Final = 200  # images; more do not move the ranges, and take time
_OPERATORS: Final = ("Conv", "MatMul", "Gemm")  # where the time goes; the others stay in float32


@dataclass(frozen=True, slots=True)
class Judged:
    """Images to hold the quantized version against its base with, not those that it was calibrated on.

    Attributes:
        images: (N, ...) preprocessed.
        positive: (N,) what is true of them; None where nobody said.
    """

    images: Floats
    positive: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The quantized version beside its base on the same images.

    Attributes:
        worst: largest difference of a score, or of a voxel's probability.
        changed: calls that differ at the base's threshold, as a share; where volumes are outlined voxels whose label
            differs, as the version decides it.
        lost: where volumes are outlined, the share of those among the voxels that either gives a label: in most volumes
            nearly all is background.
        auc: of base and quantized version; None without labels of both kinds.
        right: share of right calls of base and quantized version at the base's threshold; None without labels.
    """

    n: int
    worst: float
    mean: float
    changed: float
    auc: tuple[float, float] | None = None
    right: tuple[float, float] | None = None
    lost: float | None = None

    @property
    def text(self) -> str:
        if self.lost is not None:
            return (
                f"{self.n} windows: probabilities of voxels differ by {self.mean:.4f} on average and {self.worst:.4f} "
                f"at most; {self.changed:.2%} of voxels change their label, {self.lost:.2%} of those that either labels"
            )
        said = [
            f"{self.n} images: scores differ by {self.mean:.4f} on average and {self.worst:.4f} at most, "
            f"{self.changed:.2%} of calls change at the base's threshold"
        ]
        if self.auc is not None:
            said.append(f"AUC {self.auc[1]:.4f} (base {self.auc[0]:.4f})")
        if self.right is not None:
            said.append(f"right calls {self.right[1]:.1%} (base {self.right[0]:.1%})")
        return "; ".join(said)


def quantize(
    base: Bundle,
    folder: Path,
    to: Precision,
    number: int,
    key: Ed25519PrivateKey,
    signer: str,
    calibration: Floats | None = None,
    judged: Judged | None = None,
) -> tuple[Bundle, Comparison]:
    """Make, describe and sign a version in fewer bits.

    Args:
        folder: made; must not exist.
        number: of the new version, above the base's.
        calibration: (N, ...) preprocessed images of the training cohort; only used for INT8.
        judged: to compare with the base on; the reference cases where there are none.

    Raises:
        ConfigurationError: the base is quantized already, the number is not above its, the images are not its input,
            or the network has nothing that could be quantized.
        ExportMismatch: the quantized network cannot be made or does not run.
    """
    facts = base.facts
    if to not in get_args(Precision):
        raise ConfigurationError(f"{to!r}: {' or '.join(get_args(Precision))}")
    if facts.precision != "float32":
        raise ConfigurationError(f"{facts.label} is {facts.precision} already: quantize the version that it came from")
    if number <= facts.number:
        raise ConfigurationError(f"number {number} is not above that of {facts.label}")
    for images in (calibration, judged.images if judged else None):
        if images is not None and (images.ndim != 1 + len(facts.input_shape) or images.shape[1:] != facts.input_shape):
            raise ConfigurationError(f"images of {images.shape[1:]}, {facts.label} takes {facts.input_shape}")
    if folder.exists():
        raise ConfigurationError(f"{folder} is there already")
    calibration = calibration[:MAX_CALIBRATION] if calibration is not None and to == "int8" else None
    with tempfile.TemporaryDirectory() as temporary:
        made = _made(base.onnx, Path(temporary), to, calibration)
        reference: Floats = np.load(base.folder / "reference" / "input.npy", allow_pickle=False)
        found = _compare(base, made, judged or Judged(reference))
        shutil.copytree(
            base.folder, folder, ignore=shutil.ignore_patterns(MANIFEST, SIGNATURE, Path(WEIGHTS).name, base.onnx.name)
        )
        shutil.copyfile(made, folder / "models" / "model.onnx")
    said = facts.model_copy(
        update={
            "number": number,
            "precision": to,
            "parent": base.digest,
            "retraining": None,
            "certified": False,
            "calibration": None,  # of the base's very weights
        }
    )
    _expect(folder, said, reference)
    how = _how(to, calibration)
    _describe(folder, base, said, how, found)
    log.info("%s: %s", said.label, found.text)
    return seal(folder, key, signer), found


def _made(source: Path, folder: Path, to: Precision, calibration: Floats | None) -> Path:
    from onnxruntime.quantization import QuantFormat, QuantType, quant_pre_process, quantize_dynamic, quantize_static
    from onnxruntime.transformers.float16 import convert_float_to_float16

    prepared, made = folder / "prepared.onnx", folder / "model.onnx"
    root, level = logging.getLogger(), logging.getLogger().level
    root.setLevel(logging.ERROR)  # the quantizer warns on the root logger, once an operator
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            quant_pre_process(source, prepared)
            operators = {str(node.op_type) for node in onnx.load(prepared).graph.node}
            if to == "int8" and not operators & set(_OPERATORS):
                raise ConfigurationError(f"the network has none of {', '.join(_OPERATORS)}: nothing to quantize")
            if to == "float16":
                onnx.save(convert_float_to_float16(onnx.load(prepared), keep_io_types=True), made)
            elif calibration is None:
                # unsigned, because ConvInteger takes nothing else on a processor
                quantize_dynamic(prepared, made, op_types_to_quantize=list(_OPERATORS), weight_type=QuantType.QUInt8)
            else:
                quantize_static(
                    prepared,
                    made,
                    cast("CalibrationDataReader", _Reader(calibration)),  # known to it by its one method
                    quant_format=QuantFormat.QDQ,
                    op_types_to_quantize=list(_OPERATORS),
                    per_channel=True,
                    reduce_range=True,
                    activation_type=QuantType.QUInt8,
                    weight_type=QuantType.QInt8,
                )
    except ConfigurationError:
        raise
    except Exception as error:  # the quantizer raises as many types as it has operators
        raise ExportMismatch(f"the network cannot be made {to}: {error}") from error
    finally:
        root.setLevel(level)
    return made


class _Reader:
    """Calibration images, one by one, as the quantizer asks for them."""

    def __init__(self, images: Floats) -> None:
        self._images: Iterator[Floats] = iter(images)

    def get_next(self) -> dict[str, Floats] | None:
        image = next(self._images, None)
        return None if image is None else {"image": np.ascontiguousarray(image[None], np.float32)}


def _run(path: Path, output: str, images: Floats) -> Floats:
    import onnxruntime  # either build of it is an extra

    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        # one by one: with scales that are found at each run, a batch's images depend on each other
        parts = [cast("Floats", session.run([output], {"image": image[None]})[0]) for image in images]
    except Exception as error:  # onnxruntime raises a dozen unrelated types
        raise ExportMismatch(f"the quantized network does not run: {error}") from error
    found = np.concatenate(parts)
    if not np.isfinite(found).all():
        raise ExportMismatch("the quantized network gives no finite number")
    return found


def _chances(base: Bundle, path: Path, images: Floats) -> Floats:
    """(N, channels, ...) probabilities as the version means its logits."""
    declared = base.facts.segmentation
    logits = _run(path, "logits" if declared else "logit", images)
    if declared is None:
        return (1 / (1 + np.exp(-np.clip(logits, -80, 80)))).astype(np.float32)
    return np.stack([activate(one, declared) for one in logits])


def _called(base: Bundle, chances: Floats) -> NDArray[np.uint8] | NDArray[np.bool_]:
    """What the version decides: a call (N, 1), or where it outlines the label of each voxel (N, ...)."""
    declared = base.facts.segmentation
    if declared is None:
        return chances >= base.facts.threshold
    return np.stack([decide(one, declared, base.facts.threshold) for one in chances])


def _compare(base: Bundle, made: Path, judged: Judged) -> Comparison:
    before, after = _chances(base, base.onnx, judged.images), _chances(base, made, judged.images)
    difference = np.abs(after - before)
    called_before, called_after = _called(base, before), _called(base, after)
    curve = right = None
    if judged.positive is not None and base.facts.segmentation is None:
        truth = judged.positive
        right = tuple(float((called[:, 0] == truth).mean()) for called in (called_before, called_after))
        if truth.any() and not truth.all():
            curve = tuple(auc(scores[:, 0].astype(np.float64), truth).value for scores in (before, after))
    return Comparison(
        n=len(judged.images),
        worst=float(difference.max()),
        mean=float(difference.mean()),
        changed=float((called_before != called_after).mean()),
        lost=_lost(called_before, called_after) if base.facts.segmentation else None,
        auc=cast("tuple[float, float] | None", curve),
        right=cast("tuple[float, float] | None", right),
    )


def _lost(before: NDArray[Any], after: NDArray[Any]) -> float:
    """Share of the voxels with a label, by either, that have another one by the other; 0 where nothing is outlined."""
    labelled = (before > 0) | (after > 0)
    return float((before != after)[labelled].mean()) if labelled.any() else 0.0


def _expect(folder: Path, facts: Facts, reference: Floats) -> None:
    """Write what the quantized network itself says of the reference cases."""
    path = folder / "models" / "model.onnx"
    if facts.segmentation is not None:
        np.save(folder / "reference" / "expected.npy", _run(path, "logits", reference))
        return
    logit = _run(path, "logit", reference)[:, 0].astype(np.float64)
    scores = [float(score) for score in 1 / (1 + np.exp(-logit))]
    (folder / "reference" / "expected.json").write_text(json.dumps({"scores": scores}))


def _how(to: Precision, calibration: Floats | None) -> str:
    if to == "float16":
        return "all weights and sums in half precision; a processor computes it no faster, a GPU does"
    if calibration is None:
        return "weights in 8 bits, scales of the activations found at each run (no calibration images were given)"
    return f"weights and activations of {', '.join(_OPERATORS)} in 8 bits, calibrated on {len(calibration)} images"


def _describe(folder: Path, base: Bundle, facts: Facts, how: str, found: Comparison) -> None:
    path = folder / "configs" / "metadata.json"
    metadata: dict[str, Any] = json.loads(path.read_text())
    version = f"{facts.number}.0.0"
    changes: Mapping[str, str] = {version: f"quantized to {facts.precision} from {base.facts.label} ({base.digest})"}
    metadata |= {
        "version": version,
        "changelog": {**metadata.get("changelog", {}), **changes},
        "vigie": facts.model_dump(mode="json"),
    }
    path.write_text(json.dumps(metadata, indent=2))
    (folder / "docs" / "README.md").write_text(f"""# {facts.title} {facts.number}

Quantized to {facts.precision} from {base.facts.label} (`{base.digest[:12]}…`): {how}.

**Against its base.** {found.text[0].upper()}{found.text[1:]}. Each hospital's adoption gate compares it with what
serves there, on its own patients.

**Intended use.** {facts.intended_use.statement}

**Certificate.** None: a quantized version inherits none. Without the manufacturer's declaration it may not be used for
care where the law asks for one.

**Calibration.** None: what its base's scores were found to mean is not known of these.

**Threshold.** {facts.threshold:.4f}, its base's (rule: {facts.threshold_rule}); each hospital sets its own on its
training patients.

---

The card of {base.facts.label}:

{base.card}""")
