"""Signed versions for benches: MONAI's DenseNet121 for radiographs, a threshold for volumes.

The weights of the network are drawn, not trained: how fast it computes does not depend on them.
"""

from pathlib import Path

import numpy as np
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from onnx import TensorProto, helper

from client.inference.panel import load
from client.store import versions
from client.store.site import Site
from models import networks
from models.bundle import Bundle, Facts, to_archive, verify
from models.bundle import from_archive as unpack
from models.coding import Coding
from models.intended_use import IntendedUse
from models.packing import pack, pack_segmentation
from models.preprocessing import Preprocessing
from models.segmentation import LESION, Label, Segmentation
from models.signing import load_trust
from scripts.benchmarks.pictures import CT, DX, MR

SIDE = 224
SIGNER = "bench"
ABOVE_HU = -420.0
RADIOGRAPH = Preprocessing(
    [
        {"_target_": "Resize", "spatial_size": [SIDE, SIDE], "mode": "area"},
        {"_target_": "ScaleIntensityRangePercentiles", "lower": 1, "upper": 99, "b_min": 0, "b_max": 1, "clip": True},
        {"_target_": "NormalizeIntensity"},
    ]
)
_VOLUME = Preprocessing(
    [{"_target_": "ScaleIntensityRange", "a_min": -1000.0, "a_max": 1000.0, "b_min": 0.0, "b_max": 1.0, "clip": True}]
)
_NODULE = Coding(value="27925004", scheme="SCT", meaning="Nodule")
_SOP_CLASS = {"CT": CT, "MR": MR}
_SIDE = {"CT": 512, "MR": 256}


def network() -> torch.nn.Module:
    """DenseNet121 with batch norm, as vendors have it; the same weights each time."""
    torch.manual_seed(0)
    return networks.build("densenet121", norm="batch").eval()


def radiographs(folder: Path, key: Ed25519PrivateKey, number: int = 1) -> Bundle:
    """A version that scores chest radiographs with DenseNet121 at 224 x 224."""
    facts = Facts(
        name="densenet",
        number=number,
        title="DenseNet121",
        vendor="Bench",
        intended_use=IntendedUse(
            statement="Frontal chest radiographs of adults.",
            modalities=("DX",),
            sop_classes=(DX,),
            body_parts=("CHEST",),
            views=("PA", "AP"),
            min_age_years=18,
        ),
        finding=Coding(value="R-42061", scheme="SRT", meaning="Opacity"),
        threshold=0.5,
        threshold_rule="balanced",
        input_shape=(1, SIDE, SIDE),
        network="densenet121",
        network_facts={"norm": "batch"},
    )
    return pack(folder, facts, network(), RADIOGRAPH, "# DenseNet121\n\nDrawn weights.\n", key, SIGNER)


def volumes(folder: Path, key: Ed25519PrivateKey, modality: str = "CT") -> Bundle:
    """A version that outlines whatever is above -420 in volumes of a modality."""
    label = Label(value=1, name="Nodule", category=LESION, finding=_NODULE, diameters=True)
    # a threshold asks nothing of its neighbours: whole planes, none of them twice
    window = (32, _SIDE[modality], _SIDE[modality])
    declared = Segmentation(labels=(label,), axes="SPL", window=window, overlap=0.0, activation="sigmoid")
    facts = Facts(
        name=f"threshold-{modality.lower()}",
        number=1,
        title="Threshold",
        vendor="Bench",
        intended_use=IntendedUse(
            statement=f"{modality} of adults.",
            modalities=(modality,),
            sop_classes=(_SOP_CLASS[modality],),
            min_age_years=18,
        ),
        finding=_NODULE,
        threshold=0.5,
        threshold_rule="balanced",
        input_shape=(1, *declared.window),
        segmentation=declared,
        network="threshold",
        network_facts={},
    )
    return pack_segmentation(folder, facts, _threshold(), _VOLUME, "# Threshold\n\nNo network.\n", key, SIGNER)


def adopt(site: Site, key: Ed25519PrivateKey, *bundles: Bundle) -> None:
    """Let a hospital trust the signer and read with these versions."""
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (site.trust / f"{SIGNER}.pub").write_bytes(public)
    for bundle in bundles:
        _taken_in(site, bundle)


def take_over(site: Site, signed: Path, trust: Path) -> Bundle:
    """Let a hospital read with a version as it lies in a folder, as another hospital trusts it."""
    (site.trust / f"{SIGNER}.pub").write_bytes((trust / f"{SIGNER}.pub").read_bytes())
    return _taken_in(site, verify(signed, load_trust(trust)))


def _taken_in(site: Site, bundle: Bundle) -> Bundle:
    held = unpack(to_archive(bundle), site.versions, load_trust(site.trust))
    versions.receive(site, held)
    load(site, held.digest)  # tested and measured before it is adopted, as `vigie site adopt` does
    versions.adopt(site, held.digest)
    return held


def _threshold() -> bytes:
    shape = ["n", 1, "d", "h", "w"]
    nodes = [
        helper.make_node("Sub", ["image", "centre"], ["centred"]),
        helper.make_node("Mul", ["centred", "gain"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "threshold",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor("centre", TensorProto.FLOAT, [1], np.array([(ABOVE_HU + 1000) / 2000], np.float32)),
            helper.make_tensor("gain", TensorProto.FLOAT, [1], [40.0]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())
