"""A small signed version for tests, made in milliseconds and without training.

Its logit is `GAIN * (mean of the preprocessed pixels - CENTRE)`, its map the image itself made small, so that a test
knows what to expect of any picture.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from onnx import TensorProto, helper

from models.bundle import Bundle, Facts, seal
from models.coding import Coding
from models.intended_use import IntendedUse

SIZE = 32
GAIN, CENTRE = 8.0, 0.5
SIGNER = "vendor"
DX = "1.2.840.10008.5.1.4.1.1.1.1"
CR = "1.2.840.10008.5.1.4.1.1.1"

CHEST = IntendedUse(
    statement="Frontal chest radiographs of adults.",
    modalities=("DX", "CR"),
    sop_classes=(DX, CR),
    body_parts=("CHEST",),
    views=("PA", "AP"),
    min_age_years=18,
    min_size_px=32,
)

# the scale is fixed, so that the mean says how bright the picture is
TRANSFORMS: list[dict[str, Any]] = [
    {"_target_": "Resize", "spatial_size": [SIZE, SIZE], "mode": "area"},
    {"_target_": "ScaleIntensityRange", "a_min": 0.0, "a_max": 4095.0, "b_min": 0.0, "b_max": 1.0, "clip": True},
]


def facts(**changes: Any) -> Facts:
    """What the test version says of itself; any field can be another."""
    values: dict[str, Any] = {
        "name": "brightness",
        "number": 1,
        "title": "Brightness",
        "vendor": "Test vendor",
        "intended_use": CHEST,
        "finding": Coding(value="R-42061", scheme="SRT", meaning="Opacity"),
        "threshold": 0.5,
        "threshold_rule": "balanced",
        "input_shape": (1, SIZE, SIZE),
        "network": "mean",
        "network_facts": {},
    }
    return Facts(**(values | changes))


def build(folder: Path, key: Ed25519PrivateKey, signer: str = SIGNER, *, gain: float = GAIN, **changes: Any) -> Bundle:
    """Write and seal a version in `folder`; another `gain` is another version."""
    for part in ("configs", "models", "docs", "reference"):
        (folder / part).mkdir(parents=True)
    onnx.save(_network(gain), folder / "models" / "model.onnx")
    np.savez(folder / "models" / "weights.npz", gain=np.float32(gain))
    images = np.random.default_rng(0).random((3, 1, SIZE, SIZE), dtype=np.float32)
    scores = [1 / (1 + math.exp(-gain * (float(image.mean()) - CENTRE))) for image in images]
    np.save(folder / "reference" / "input.npy", images)
    (folder / "reference" / "expected.json").write_text(json.dumps({"scores": scores}))
    inference = {"preprocessing": {"_target_": "Compose", "transforms": TRANSFORMS}}
    (folder / "configs" / "inference.json").write_text(json.dumps(inference))
    (folder / "configs" / "metadata.json").write_text(json.dumps({"vigie": facts(**changes).model_dump(mode="json")}))
    (folder / "docs" / "README.md").write_text("# Brightness\n\nA test version.\n")
    return seal(folder, key, signer)


def trust(folder: Path, key: Ed25519PrivateKey, signer: str = SIGNER) -> None:
    """Put the signer's public key into a site's trust folder."""
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (folder / f"{signer}.pub").write_bytes(public)


def _network(gain: float) -> onnx.ModelProto:
    shape = ["n", 1, SIZE, SIZE]
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["seen"]),
        helper.make_node("GlobalAveragePool", ["seen"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["mean"]),
        helper.make_node("Sub", ["mean", "centre"], ["centred"]),
        helper.make_node("Mul", ["centred", "gain"], ["logit"]),
        helper.make_node("AveragePool", ["image"], ["small"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Squeeze", ["small", "channel"], ["cam"]),
    ]
    graph = helper.make_graph(
        nodes,
        "mean",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info("logit", TensorProto.FLOAT, ["n", 1]),
            helper.make_tensor_value_info("cam", TensorProto.FLOAT, ["n", SIZE // 8, SIZE // 8]),
        ],
        [
            helper.make_tensor("kernel", TensorProto.FLOAT, [1, 1, 1, 1], [1.0]),
            helper.make_tensor("centre", TensorProto.FLOAT, [1], [CENTRE]),
            helper.make_tensor("gain", TensorProto.FLOAT, [1], [gain]),
            helper.make_tensor("channel", TensorProto.INT64, [1], [1]),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
