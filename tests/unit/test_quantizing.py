"""A network in fewer bits is another version: its own number, digest, signature and self test; nothing is inherited."""

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import onnxruntime
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from typer.testing import CliRunner

from client.inference import torchscript
from client.inference.engine import Engine
from client.inference.volume_engine import VolumeEngine
from models.bundle import Bundle, seal, verify
from models.errors import BundleRefused, ConfigurationError
from models.packing import pack_segmentation
from models.quantizing import Judged, Precision, quantize
from models.stats.calibration import Calibration

SIDE = 64


def images(count: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(count, 1, SIDE, SIDE)).astype(np.float32)


@pytest.mark.parametrize(
    ("to", "calibrated", "within"), [("int8", True, 0.06), ("int8", False, 0.03), ("float16", False, 0.001)]
)
def test_a_quantized_version_stands_by_itself(
    residual: Bundle, to: Precision, calibrated: bool, within: float, vendor_key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    judged = Judged(images(16, 1), np.arange(16) % 2 == 0)
    calibration = images(8, 2) if calibrated else None

    made, found = quantize(residual, tmp_path / "made", to, 5, vendor_key, "vendor", calibration, judged)

    again = verify(made.folder, {"vendor": vendor_key.public_key()})
    assert again.digest != residual.digest
    facts = again.facts
    assert (facts.number, facts.precision, facts.parent) == (5, to, residual.digest)
    assert not facts.certified
    assert facts.retraining is None
    assert "inherits none" in again.card
    assert residual.facts.label in again.card
    assert f"quantized to {to}" in (made.folder / "configs" / "metadata.json").read_text()
    # nothing can be trained from it, nor may the base's weights be computed in its name
    assert not again.has_weights
    assert not torchscript.possible(again)
    with pytest.raises(BundleRefused, match="no weights"):
        again.read_weights()
    engines = Engine(residual), Engine(again)
    before, after = (engine.scores(judged.images) for engine in engines)
    assert 0 < found.worst <= within
    assert np.abs(after - before).max() == pytest.approx(found.worst, abs=1e-4)
    assert found.auc is not None
    # a score never depends on what else is in the batch
    alone = [engines[1].run(image).score for image in judged.images]
    assert [one.score for one in engines[1].run_many(list(judged.images))] == pytest.approx(alone, abs=1e-5)


def test_the_base_s_reference_does_not_pass_for_the_quantized_network_s(
    residual: Bundle, vendor_key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    made, _ = quantize(residual, tmp_path / "made", "int8", 2, vendor_key, "vendor", images(8, 2))
    expected = made.folder / "reference" / "expected.json"
    scores = json.loads(expected.read_text())["scores"]
    assert scores == pytest.approx(
        [Engine(made).run(one).score for one in np.load(made.folder / "reference/input.npy")]
    )
    expected.write_text(json.dumps({"scores": [score + 0.05 for score in scores]}))

    with pytest.raises(BundleRefused, match="reference score"):
        Engine(seal(made.folder, vendor_key, "vendor"))


def test_what_cannot_be_quantized_is_said_and_nothing_is_left(
    residual: Bundle, volumes: ModuleType, vendor_key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    mean = volumes.build(tmp_path / "plain", vendor_key)
    half, _ = quantize(residual, tmp_path / "half", "float16", 2, vendor_key, "vendor")
    for one, to, number, calibration, problem in (
        (mean, "int8", 2, None, "nothing to quantize"),
        (half, "int8", 3, None, "already"),
        (residual, "int8", 1, None, "not above"),
        (residual, "int8", 2, images(4, 0)[:, :, :9], "takes"),
        (residual, "int4", 2, None, "int4"),
    ):
        with pytest.raises(ConfigurationError, match=problem):
            quantize(one, tmp_path / "made", to, number, vendor_key, "vendor", calibration)  # type: ignore[arg-type]
        assert not (tmp_path / "made").exists()


def test_a_version_that_outlines_is_quantized_too(
    volumes: ModuleType, vendor_key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    plain = volumes.build(tmp_path / "plain", vendor_key)

    made, found = quantize(plain, tmp_path / "half", "float16", 2, vendor_key, "vendor")

    assert made.facts.segmentation is not None
    engine = VolumeEngine(made, made.facts.segmentation)
    assert engine.predict(np.zeros((1, 1, 16, 32, 32), np.float32)).shape == (1, 1, 16, 32, 32)
    assert found.worst < 0.05


def test_the_command_calibrates_and_judges_on_different_patients(
    residual: Bundle, vendor_key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    from scripts.vigie import app

    lines = ["file,site,label,patient"]
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 255, (80, 70), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,here,{'abnormal' if number % 2 else 'normal'},P{number}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines))
    pem = vendor_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "vendor.key").write_bytes(pem)
    asked = ["version", "quantize", str(residual.folder), "--to", "int8", "--key", str(tmp_path / "vendor.key")]

    done = CliRunner().invoke(
        app, [*asked, "--out", str(tmp_path / "made"), "--manifest", str(tmp_path / "manifest.csv")]
    )

    assert done.exit_code == 0, done.output
    assert "AUC" in done.output
    assert "ms an image here" in done.output
    made = verify(tmp_path / "made", {"vendor": vendor_key.public_key()})
    assert f"{made.facts.label} {made.digest}" in done.output
    assert made.facts.number == residual.facts.number + 1
    assert "calibrated on" in made.card


def _grey(values: NDArray[np.float64], side: int) -> NDArray[np.float32]:
    return np.broadcast_to(values[:, None, None, None], (len(values), 1, side, side)).astype(np.float32)


def test_a_calibration_that_misses_the_patients_shows_in_the_comparison(
    bundle_folder: Path, bundles: ModuleType, vendor_key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    bright = verify(bundle_folder, {"vendor": vendor_key.public_key()})
    values = np.linspace(0.2, 0.8, 40)
    judged = Judged(_grey(values, bundles.SIZE), values >= 0.5)

    _, good = quantize(bright, tmp_path / "good", "int8", 2, vendor_key, "vendor", judged.images, judged)
    _, poor = quantize(bright, tmp_path / "poor", "int8", 3, vendor_key, "vendor", judged.images[:10] * 0.1, judged)

    assert good.auc == pytest.approx((1.0, 1.0))
    assert good.changed <= 0.05
    assert poor.right is not None
    assert poor.right[1] < 0.6 < poor.right[0]


def _two_channels(window: tuple[int, int, int]) -> bytes:
    """Logits that share a large offset: a sigmoid of either is 1 everywhere, and only their difference decides."""
    weights = np.array([1.0, 1.02], np.float32).reshape(2, 1, 1, 1, 1)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "weights", "bias"], ["logits"])],
        "two",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 1, *window])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 2, *window])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(np.full(2, 12, np.float32), "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def test_what_the_card_says_of_an_outlining_version_is_what_it_decides(
    volumes: ModuleType, vendor_key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    window = (8, 8, 8)
    said = volumes.facts(segmentation=volumes.declared(window=window, activation="softmax"))
    given = np.random.default_rng(0).normal(size=(4, 1, *window)).astype(np.float32)
    base = pack_segmentation(
        tmp_path / "base", said, _two_channels(window), volumes.PREPROCESSING, "# Two", vendor_key, "vendor"
    )

    made, found = quantize(base, tmp_path / "made", "int8", 2, vendor_key, "vendor", given, Judged(given))

    def labels(bundle: Bundle) -> NDArray[np.int64]:
        session = onnxruntime.InferenceSession(str(bundle.onnx), providers=["CPUExecutionProvider"])
        return np.stack([session.run(["logits"], {"image": one[None]})[0][0].argmax(axis=0) for one in given])

    before, after = labels(base), labels(made)
    differs = before != after
    assert differs.mean() > 0.05  # the case is one
    assert found.changed == pytest.approx(float(differs.mean()))
    assert found.lost == pytest.approx(float(differs[(before > 0) | (after > 0)].mean()))
    assert f"{float(differs.mean()):.2%} of voxels change their label" in made.card


def test_a_calibration_is_of_the_weights_that_it_was_made_with(
    bundles: ModuleType, vendor_key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    of_base = Calibration(
        slope=1, intercept=0, level=0.9, lowest_positive=0.4, highest_negative=0.6, positives=50, negatives=50
    )
    base = bundles.build(tmp_path / "base", vendor_key, calibration=of_base)

    made, _ = quantize(base, tmp_path / "made", "int8", 2, vendor_key, "vendor")

    assert verify(base.folder, {"vendor": vendor_key.public_key()}).facts.calibration == of_base
    assert verify(made.folder, {"vendor": vendor_key.public_key()}).facts.calibration is None
