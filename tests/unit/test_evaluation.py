"""`vigie evaluate` scores as the node does, and one bad row loses nothing of the others."""

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset

from client.dicom import decode
from client.inference.engine import Engine
from client.inference.evaluation import evaluate
from client.store.archive import Archive
from models.bundle import Bundle, verify
from models.errors import ConfigurationError
from models.manifest import read
from models.preprocessing import Preprocessing

ROOT = Path(__file__).parents[2]


def _manifest(
    folder: Path, rows: list[tuple[str, ...]], header: tuple[str, ...] = ("file", "site", "label", "patient")
) -> Path:
    path = folder / "manifest.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def _pictures(folder: Path, count: int) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for number in range(count):
        grey = np.full((40, 50), 40 + 15 * number, dtype=np.uint16) * 16
        Image.fromarray(grey).save(folder / f"{number}.png")
        rows.append((f"{number}.png", "here", "abnormal" if number >= count // 2 else "normal", f"P{number}"))
    return rows


def _command(bundle: Path, trust: Path, manifest: Path, out: Path) -> list[str | Path]:
    start = [sys.executable, "-m", "scripts.vigie", "evaluate", "--version", bundle, "--trust", trust]
    return [*start, "--manifest", manifest, "--out", out]


def test_scores_are_those_of_the_nodes_path_for_pictures_and_dicom(
    bundle_folder: Path,
    bundles: ModuleType,
    vendor_key: Ed25519PrivateKey,
    tmp_path: Path,
    radiograph: Callable[..., Dataset],
) -> None:
    bundle = verify(bundle_folder, {bundles.SIGNER: vendor_key.public_key()})
    rows = _pictures(tmp_path, 8)
    image = radiograph(0.6)
    image.save_as(tmp_path / "image.dcm", enforce_file_format=True)
    report = evaluate(bundle, read(_manifest(tmp_path, [*rows, ("image.dcm", "there", "1", "Q")])))
    here = report["sites"]["here"]
    assert here["n"] == 8
    assert here["auc"]["value"] == 1.0
    assert list(here["scores"].values()) == sorted(here["scores"].values())
    archive = tmp_path / "archive"
    archive.mkdir()
    kept = Archive(archive)
    digest = kept.store((tmp_path / "image.dcm").read_bytes())
    tensor = Preprocessing(bundle.preprocessing)(decode.read(kept.path(digest)).pixels)
    assert report["sites"]["there"]["scores"]["image.dcm"] == pytest.approx(Engine(bundle).run(tensor).score, abs=1e-6)
    assert report["sites"]["there"]["auc"] is None


def test_what_the_node_would_refuse_by_its_pixels_counts_in_no_figure(
    bundle_folder: Path,
    bundles: ModuleType,
    vendor_key: Ed25519PrivateKey,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class OnlyDark:
        """Refuses what is brighter than a limit, as the node's own check would what is unlike the cohort."""

        limit = 0.5

        def distance(self, tensor: NDArray[np.float32]) -> float:
            return float(tensor.mean())

    bundle = verify(bundle_folder, {bundles.SIGNER: vendor_key.public_key()})
    manifest = _manifest(tmp_path, _pictures(tmp_path, 8))
    whole = evaluate(bundle, read(manifest))
    monkeypatch.setattr(Bundle, "read_novelty", lambda _self: OnlyDark())
    report = evaluate(bundle, read(manifest))
    here, all_ = report["sites"]["here"], whole["sites"]["here"]
    assert (all_["refused"], whole["refused"]) == ({}, [])
    assert 0 < here["n"] < all_["n"] == 8
    assert here["refused"] == {"novel-image": 8 - here["n"]}
    assert {line["file"] for line in report["refused"]} == all_["scores"].keys() - here["scores"].keys()
    assert all(line["score"] == pytest.approx(all_["scores"][line["file"]]) for line in report["refused"])
    assert here["n_positive"] == sum(int(file[0]) >= 4 for file in here["scores"])


def test_a_missing_file_a_text_and_a_repeated_row_are_named_and_lose_nothing(
    bundle_folder: Path, tmp_path: Path, bundles: ModuleType, vendor_key: Ed25519PrivateKey
) -> None:
    rows = _pictures(tmp_path, 4)
    (tmp_path / "text.dcm").write_text("not an image")
    (tmp_path / "text.png").write_text("not an image")
    more = [
        ("gone.dcm", "here", "normal", "P"),
        ("gone.png", "here", "normal", "P"),
        ("text.dcm", "here", "normal", "P"),
        ("text.png", "here", "0", "P"),
        rows[0],
    ]
    manifest = _manifest(tmp_path, rows[:2] + more + rows[2:])
    trust = tmp_path / "trust"
    trust.mkdir()
    bundles.trust(trust, vendor_key)
    done = subprocess.run(
        _command(bundle_folder, trust, manifest, tmp_path / "out.json"),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 1, done.stderr
    report = json.loads((tmp_path / "out.json").read_text())
    assert sorted(report["sites"]["here"]["scores"]) == ["0.png", "1.png", "2.png", "3.png"]
    assert [problem["line"] for problem in report["problems"]] == [4, 5, 6, 7, 8]
    for named in ("gone.png: missing-file", "gone.dcm: missing-file", "text.dcm: not-dicom", "text.png: undecodable"):
        assert named in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("header", "row", "said"),
    [
        (("file", "site", "label"), ("a.png", "s", "normal"), "'patient' is missing"),
        (("file", "site", "label", "patient"), ("a.png", "s", "perhaps", "p"), "line 2: label 'perhaps'"),
        (("file", "site", "label", "patient"), ("a.png", "s", "normal", ""), "line 2: patient is empty"),
    ],
)
def test_a_manifest_that_cannot_be_right_is_refused_by_line(
    tmp_path: Path, header: tuple[str, ...], row: tuple[str, ...], said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said):
        list(read(_manifest(tmp_path, [row], header)))


def test_an_altered_version_is_refused_before_anything_is_scored(
    bundle_folder: Path, bundles: ModuleType, vendor_key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    trust = tmp_path / "trust"
    trust.mkdir()
    bundles.trust(trust, vendor_key)
    model = bundle_folder / "models" / "model.onnx"
    content = bytearray(model.read_bytes())
    content[len(content) // 2] ^= 1
    model.write_bytes(content)
    done = subprocess.run(
        _command(bundle_folder, trust, _manifest(tmp_path, _pictures(tmp_path, 2)), tmp_path / "out.json"),
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 1
    assert "bundle-refused" in done.stderr
    assert "model.onnx is altered" in done.stderr
    assert not (tmp_path / "out.json").exists()
