"""An image that is nothing like what a version was trained on is not read, whatever its header says; what another
hospital's machine makes of the same thing is.
"""

import csv
import math
import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray
from pydicom import dcmread

from client.inference.pipeline import Pipeline, Refused
from client.inference.scope import Code
from client.inference.study import Image, Study
from models import novelty, novelty_training
from models.bundle import NOVELTY, seal, verify
from models.drawings import drawings
from models.errors import BundleRefused
from models.manifest import picture
from models.manifest import read as read_manifest
from models.novelty import Novelty, load
from models.preprocessing import Preprocessing
from models.signing import load_trust
from scripts.demonstration import studies


@pytest.fixture(scope="module")
def cohorts(vigie_data: Path) -> dict[str, tuple[NDArray[np.float32], list[str]]]:
    """Preprocessed images and patients, by hospital."""
    return prepared(vigie_data / "cxr" / "manifest.csv", 300, 80)


def prepared(manifest: Path, own: int, others: int) -> dict[str, tuple[NDArray[np.float32], list[str]]]:
    preprocessing = Preprocessing()
    chosen: dict[str, list[Any]] = {}
    for row in read_manifest(manifest):
        chosen.setdefault(row.site, []).append(row)
    found: dict[str, tuple[NDArray[np.float32], list[str]]] = {}
    for site, rows in chosen.items():
        some = rows[:: max(1, len(rows) // (own if site == "guangzhou" else others))]
        found[site] = (np.stack([preprocessing(picture(row.path)) for row in some]), [row.patient for row in some])
    return found


@pytest.fixture(scope="module")
def check(cohorts: dict[str, tuple[NDArray[np.float32], list[str]]]) -> Novelty:
    """Fitted to one hospital alone, of children."""
    fitted = novelty_training.fit(*cohorts["guangzhou"], seed=1)
    assert fitted is not None
    return fitted


def refused(check: Novelty, images: Any) -> float:
    return float(np.mean([check.distance(np.ascontiguousarray(image)) > check.limit for image in images]))


def test_hospitals_that_it_has_not_seen_are_read(check: Novelty, cohorts: dict[str, Any]) -> None:
    for site in ("nih", "shenzhen"):
        assert refused(check, cohorts[site][0]) <= 0.04, site  # about a hundred images: the target of 2 %, and chance


def test_a_film_with_black_edges_is_read(check: Novelty, cohorts: dict[str, Any]) -> None:
    """Collimators leave them, and whoever pads a film to a square; the hospital that it was fitted to has none."""
    for site in ("nih", "shenzhen"):
        images: NDArray[np.float32] = cohorts[site][0]
        low = images.min((1, 2, 3), keepdims=True)
        for name, (top, bottom, left, right) in {"collimated": (10, 8, 8, 10), "padded": (0, 0, 12, 12)}.items():
            edged = np.broadcast_to(low, images.shape).copy()
            edged[:, :, top : 128 - bottom, left : 128 - right] = images[:, :, top : 128 - bottom, left : 128 - right]
            assert refused(check, edged) <= 0.05, (site, name)


def test_what_is_no_upright_radiograph_is_refused(check: Novelty, cohorts: dict[str, Any]) -> None:
    random = np.random.default_rng(0)
    for site in ("nih", "shenzhen"):
        images = cohorts[site][0]
        for name, changed in (
            ("upside down", images[:, :, ::-1, ::-1]),
            ("lying", np.rot90(images, axes=(2, 3)).astype(np.float32)),
            ("inverted", -images),
        ):
            assert refused(check, changed) >= 0.9, (site, name)
    assert refused(check, random.normal(size=(50, 1, 128, 128)).astype(np.float32)) == 1
    assert refused(check, random.random((50, 1, 128, 128), np.float32)) == 1
    assert check.distance(np.zeros((1, 128, 128), np.float32)) == math.inf


def test_films_that_are_painted_over_or_cut_in_half_are_refused(check: Novelty, cohorts: dict[str, Any]) -> None:
    """A score of a film whose lung is hidden says nothing of that lung."""
    for site in ("nih", "shenzhen"):
        images: NDArray[np.float32] = cohorts[site][0]
        for grey in (images.min((1, 2, 3)), images.mean((1, 2, 3)), images.max((1, 2, 3))):
            for name, least, rows, columns in (
                ("a lung", 0.7, slice(26, 96), slice(10, 58)),
                ("the other lung", 0.7, slice(26, 96), slice(70, 118)),
                ("the middle", 0.9, slice(32, 96), slice(32, 96)),
                ("a half", 0.9, slice(None), slice(0, 64)),
            ):
                covered = images.copy()
                covered[:, :, rows, columns] = grey[:, None, None, None]
                assert refused(check, covered) >= least, (site, name)
        assert refused(check, images[:, :, :, :64].repeat(2, 3)) >= 0.6, site


def test_a_lung_that_has_gone_white_is_read(check: Novelty, cohorts: dict[str, Any]) -> None:
    """Effusion and collapse take four fifths of a side's contrast away, and are what a film is taken for."""
    down, across = np.linspace(0, 1, 128)[:, None], np.linspace(0, 1, 128)[None]
    for site in ("nih", "shenzhen"):
        images: NDArray[np.float32] = cohorts[site][0]
        mean, high = images.mean((1, 2, 3), keepdims=True), images.max((1, 2, 3), keepdims=True)
        for middle in (0.27, 0.73):
            near = np.clip((0.25 - abs(across - middle)) * 12, 0, 1) * np.clip((0.4 - abs(down - 0.5)) * 12, 0, 1) * 0.8
            white = images * (1 - near) + near * (mean + 0.7 * (high - mean))
            assert refused(check, white.astype(np.float32)) <= 0.06, (site, middle)


def test_sections_and_photographs_under_a_chest_header_are_refused(check: Novelty, vigie_data: Path) -> None:
    folder = vigie_data / "dicom"
    from client.dicom import decode
    from models.errors import InvalidStudy

    preprocessing = Preprocessing()
    found: list[bool] = []
    with (folder / "manifest.csv").open() as file:
        for row in csv.DictReader(file):
            if row["modality"] in ("CT", "MR", "US", "MG", "NM", "PT", "XC", "OT"):
                try:
                    pixels = decode.read(folder / row["file"]).pixels
                except InvalidStudy:
                    continue
                found.append(check.distance(preprocessing(pixels)) > check.limit)
    assert len(found) > 30
    assert np.mean(found) >= 0.9


def test_ultrasounds_and_bones_that_claim_to_be_a_chest_are_mostly_refused(check: Novelty, vigie_data: Path) -> None:
    """Colour counts as grey here: what a frame grabber sends comes as a grey secondary capture."""
    preprocessing = Preprocessing()
    found: dict[str, bool] = {}
    with (vigie_data / "dicom" / "manifest.csv").open() as file:
        for row in csv.DictReader(file):
            bones = row["file"].startswith(("CR__pydicom-data__RG3", "CR__fo-dicom__CR-Mod", "CT__fo-dicom__GH355"))
            if row["decode"].startswith("ok") and (row["modality"] == "US" or bones):
                pixels = dcmread(vigie_data / "dicom" / row["file"]).pixel_array.astype(np.float32)
                if row["photometric"] not in ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"):
                    pixels = pixels.mean(-1)
                plane = pixels[0] if pixels.ndim == 3 else pixels
                found[row["file"]] = check.distance(preprocessing(plane)) > check.limit
    assert len(found) > 10
    assert np.mean(list(found.values())) >= 0.75, found  # a fifth of the ultrasounds slip through some fits


def test_what_a_wrong_header_brings_is_refused_as_it_is_drawn_anew(check: Novelty) -> None:
    """Pictures of the families that it was trained on, none of the pictures themselves."""
    made = drawings(20, 32, torch.Generator().manual_seed(77))
    assert made.isfinite().all()
    assert refused(check, made.numpy()) >= 0.85


def test_a_picture_has_the_same_distance_every_time(check: Novelty, cohorts: dict[str, Any]) -> None:
    images = cohorts["nih"][0][:50]
    first = [check.distance(image) for image in images]
    assert [check.distance(image) for image in images] == first


def test_the_same_cohort_gives_the_same_check(cohorts: dict[str, Any], check: Novelty) -> None:
    again = novelty_training.fit(*cohorts["guangzhou"], seed=1)
    assert again is not None
    assert again.limit == check.limit


def test_too_few_patients_make_no_check(cohorts: dict[str, Any]) -> None:
    images, _ = cohorts["guangzhou"]
    assert novelty_training.fit(images, ["one", "two"] * (len(images) // 2) + ["one"] * (len(images) % 2)) is None


def test_a_check_comes_back_from_its_file(check: Novelty, tmp_path: Path, cohorts: dict[str, Any]) -> None:
    check.save(tmp_path / "novelty.npz")
    assert (tmp_path / "novelty.npz").stat().st_size < 1_000_000
    image = cohorts["nih"][0][0]
    assert load(tmp_path / "novelty.npz").distance(image) == pytest.approx(check.distance(image), abs=1e-5)


def test_a_check_from_before_flatness_counted_still_judges(
    check: Novelty, tmp_path: Path, cohorts: dict[str, Any]
) -> None:
    short = slice(None, novelty.FEATURES)
    older = replace(check, centre=check.centre[short], scale=check.scale[short], inner=check.inner[short])
    older.save(tmp_path / "novelty.npz")
    found = load(tmp_path / "novelty.npz")
    assert found.distance(cohorts["nih"][0][0]) == pytest.approx(older.distance(cohorts["nih"][0][0]), abs=1e-5)


@pytest.mark.parametrize("harm", ["cut", "text", "pickle", "shape", "nan", "open", "shut", "missing"])
def test_a_file_that_is_no_check_is_refused(check: Novelty, tmp_path: Path, harm: str) -> None:
    path = tmp_path / "novelty.npz"
    check.save(path)
    with np.load(path) as file:
        arrays: dict[str, Any] = dict(file)
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif harm == "text":
        path.write_text("no arrays")
    elif harm == "missing":
        path.unlink()
    else:
        changed: dict[str, Any] = {
            "pickle": {"inner": np.array([{}], dtype=object)},
            "shape": {"inner": arrays["inner"][:-1]},
            "nan": {"outer": arrays["outer"] * np.nan},
            "open": {"limit": np.float32(1e9)},
            "shut": {"limit": np.float32(-1e9)},
        }[harm]
        np.savez(path, **(arrays | changed))
    with pytest.raises(BundleRefused):
        load(path)


class Forbidden:
    """Fails the test that computes a score or keeps an image."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was asked for, of an image that is refused")


def test_nothing_is_computed_of_a_novel_image(
    check: Novelty, tmp_path: Path, bundle_folder: Path, vendor_key: Ed25519PrivateKey, bundles: ModuleType
) -> None:
    check.save(bundle_folder / NOVELTY)
    bundle = seal(bundle_folder, vendor_key, bundles.SIGNER)
    noise = np.random.default_rng(0).integers(0, 256, (200, 200), np.uint8)
    row: Any = SimpleNamespace(site="nih", file="x.png", patient="P")
    studies.radiograph(row, noise, 1, 1, "PA").save_as(tmp_path / "image", enforce_file_format=True)
    never = Forbidden()
    serving: Any = SimpleNamespace(
        bundle=bundle,
        engine=never,
        preprocessing=Preprocessing(),
        novelty=bundle.read_novelty(),
        threshold=0.5,
        suspended=False,
    )
    files: Any = SimpleNamespace(path=lambda _digest: tmp_path / "image")
    pipeline = Pipeline(files, cast("Any", never), lambda: [serving], "Hospital")
    outcome = pipeline.process(Study("2.25.2", 1, 1, 0.0, (Image("2.25.1", bundles.DX, "0"),)))
    assert isinstance(outcome, Refused)
    (reason,) = outcome.reasons
    assert reason.code == Code.NOVEL_IMAGE
    assert f"limit {check.limit:.2f}" in reason.text


def test_the_check_is_part_of_the_signed_version(
    check: Novelty, tmp_path: Path, bundle_folder: Path, vendor_key: Ed25519PrivateKey, bundles: ModuleType
) -> None:
    trust = tmp_path / "trust"
    trust.mkdir()
    bundles.trust(trust, vendor_key)
    assert verify(bundle_folder, load_trust(trust)).read_novelty() is None  # a version without one is still a version
    check.save(bundle_folder / NOVELTY)
    with pytest.raises(BundleRefused, match=r"novelty\.npz is not in the manifest"):
        verify(bundle_folder, load_trust(trust))
    bundle = seal(bundle_folder, vendor_key, bundles.SIGNER)
    found = bundle.read_novelty()
    assert found is not None
    assert found.limit == pytest.approx(check.limit)
    shutil.copy(bundle_folder / "models" / "weights.npz", bundle_folder / NOVELTY)
    with pytest.raises(BundleRefused, match="altered"):
        verify(bundle_folder, load_trust(trust))


def test_a_retrained_version_keeps_its_bases_check(
    check: Novelty, tmp_path: Path, vendor_key: Ed25519PrivateKey, bundles: ModuleType
) -> None:
    from models.networks import build
    from models.packing import pack
    from models.training import get_weights
    from server import candidate

    shape: dict[str, Any] = {"channels": [8, 8, 8, 8], "groups": 4}
    network = build("residual", **shape)
    facts = bundles.facts(network="residual", network_facts=shape, input_shape=(1, 128, 128))
    base = pack(tmp_path / "base", facts, network, Preprocessing(), "card", vendor_key, "vendor", check)
    coordinator: Any = SimpleNamespace(
        registry=SimpleNamespace(next_number=lambda _name: 2),
        folder=tmp_path,
        versions=tmp_path / "versions",
        signing_key=vendor_key,
    )
    coordinator.versions.mkdir()
    plan: Any = SimpleNamespace(name="one", rounds=1, strategy="fedavg", hyper=SimpleNamespace(error_weight=2.0))
    made = candidate.make(coordinator, plan, base, get_weights(network), 0.5, {"nih": 3})
    kept = made.read_novelty()
    assert kept is not None
    assert kept.limit == pytest.approx(check.limit)
    assert (kept.inner == base.read_novelty().inner).all()  # type: ignore[union-attr]
