"""A vendor's outlining version is packed by a command; its image check is fitted to the cohort as a node sees it."""

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset
from typer.testing import CliRunner

from client.dicom import series
from client.inference import cohort
from client.inference.segment import upright
from models.bundle import verify
from models.errors import ConfigurationError, ExportMismatch, InvalidPreprocessing
from models.signing import load_key
from scripts import version_commands

PATIENTS = 60
SHAPE = (22, 24)
Given = dict[str, Path]


def scan(volumes: ModuleType, random: np.random.Generator, spacing: float) -> list[Dataset]:
    """A series of something that gets denser downwards, with grain."""
    made: list[Dataset] = volumes.series(count=5, shape=SHAPE, step=5.0, spacing=(spacing, spacing))
    down, across = np.indices(SHAPE)
    for image in made:
        grey = 900 + 20 * down + 8 * across + random.normal(0, 30, SHAPE)
        image.PixelData = grey.astype(np.uint16).tobytes()
    return made


@pytest.fixture(scope="module")
def given(volumes: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Given:
    """What a vendor has: a network, what it says of itself, and its training series, none of anybody."""
    folder = tmp_path_factory.mktemp("vendor")
    rows = ["folder,patient"]
    random = np.random.default_rng(1)
    for number in range(PATIENTS):
        made = scan(volumes, random, random.uniform(1.8, 2.2))
        place = folder / "series" / str(number)
        place.mkdir(parents=True)
        for image in made:
            (place / f"{image.InstanceNumber}.dcm").write_bytes(volumes.content(image))
        rows.append(f"series/{number},P{number}")
    files = {name: folder / name for name in ("onnx", "facts", "preprocessing", "card", "volumes")}
    files["onnx"].write_bytes(volumes.network())
    files["facts"].write_text(volumes.facts().model_dump_json())
    files["preprocessing"].write_text(json.dumps(volumes.PREPROCESSING.declaration))
    files["card"].write_text("# Nodule\n")
    files["volumes"].write_text("\n".join(rows))
    return files


@pytest.fixture
def pack(given: Given, tmp_path: Path) -> Callable[..., Any]:
    def ask(**changes: Path | None) -> Any:
        chosen = given | {"out": tmp_path / "bundle", "key": tmp_path / "vendor.key"} | changes
        words = [word for name, path in chosen.items() if path for word in (f"--{name}", str(path))]
        return CliRunner().invoke(version_commands.app, ["pack", *words])

    return ask


def test_the_check_is_fitted_and_shipped_and_knows_the_cohort(
    pack: Callable[..., Any], given: Given, volumes: ModuleType, tmp_path: Path
) -> None:
    told = pack()
    assert told.exit_code == 0, told.output
    bundle = verify(tmp_path / "bundle", {"vendor": load_key(tmp_path / "vendor.key").public_key()})
    check = bundle.read_volume_novelty()
    assert check is not None
    assert check.hounsfield
    assert f"beyond a distance of {check.limit:.2f} are refused" in told.output
    assert f"beyond a distance of {check.limit:.2f}" in bundle.card

    def distance(spacing: float) -> float:
        images = scan(volumes, np.random.default_rng(2), spacing)
        paths = []
        for image in images:
            paths.append(tmp_path / str(image.SOPInstanceUID))
            paths[-1].write_bytes(volumes.content(image))
        planes = [plane for path, image in zip(paths, images, strict=True) for plane in series.planes(str(path), image)]
        volume = series.read(series.stack(planes), Paths())
        return check.distance(*upright(volume, volumes.declared()))

    assert distance(2.0) <= check.limit
    assert distance(4.0) > check.limit


class Paths:
    """The digest of a file is its path."""

    def path(self, digest: str) -> Path:
        return Path(digest)


def test_without_volumes_nothing_is_shipped_and_that_is_said(pack: Callable[..., Any], tmp_path: Path) -> None:
    told = pack(volumes=None)
    assert told.exit_code == 0, told.output
    assert "no image check is shipped" in told.output
    bundle = verify(tmp_path / "bundle", {"vendor": load_key(tmp_path / "vendor.key").public_key()})
    assert bundle.read_volume_novelty() is None


def test_what_cannot_be_fitted_is_named_and_nothing_is_made(
    pack: Callable[..., Any], given: Given, volumes: ModuleType, tmp_path: Path
) -> None:
    listing = given["volumes"].read_text().splitlines()
    for name, lines, expected in (
        ("few", listing[:40], "39 patients: 60 at least"),
        ("absent", [listing[0], "series/none,P99", *listing[1:]], "line 2: "),
        ("empty", [*listing, "series/0,"], "patient is empty"),
        ("column", ["folder", "series/0"], "the column 'patient' is missing"),
    ):
        path = given["volumes"].parent / f"{name}.csv"
        path.write_text("\n".join(lines))
        told = pack(volumes=path)
        assert told.exit_code != 0
        assert isinstance(told.exception, ConfigurationError)
        assert expected in str(told.exception), name
        assert not (tmp_path / "bundle").exists()
    flat = volumes.facts().model_copy(update={"segmentation": None})
    with pytest.raises(ConfigurationError, match="outlines nothing"):
        cohort.fit_novelty([], flat)
    no_facts = tmp_path / "facts.json"
    no_facts.write_text("{}")
    assert "name" in str(pack(facts=no_facts).exception)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([{"_target_": "ScaleIntensityRange", "a_min": "x", "a_max": 1}], "ScaleIntensityRange fails on"),
        ([{"_target_": "Resize", "spatial_size": [32, 32, 32]}], "of a volume of"),
    ],
)
def test_steps_that_would_read_no_study_are_not_signed(
    pack: Callable[..., Any], steps: Any, expected: str, tmp_path: Path
) -> None:
    (tmp_path / "steps.json").write_text(json.dumps(steps))

    told = pack(preprocessing=tmp_path / "steps.json", volumes=None)

    assert isinstance(told.exception, InvalidPreprocessing)
    assert expected in str(told.exception)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "vendor.pub") == ["steps.json"]


def test_a_pack_that_fails_leaves_nothing_and_can_be_asked_again(
    pack: Callable[..., Any], given: Given, tmp_path: Path
) -> None:
    (tmp_path / "noise.onnx").write_bytes(b"nonsense")
    (tmp_path / "step.json").write_text(json.dumps({"_target_": "ScaleIntensity"}))
    written = {"_target_": "Compose", "transforms": json.loads(given["preprocessing"].read_text())}
    (tmp_path / "compose.json").write_text(json.dumps(written))

    assert isinstance(pack(onnx=tmp_path / "noise.onnx", volumes=None).exception, ExportMismatch)
    told = pack(preprocessing=tmp_path / "step.json", volumes=None)
    assert isinstance(told.exception, InvalidPreprocessing)
    assert "Compose" in str(told.exception)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]

    assert pack(preprocessing=tmp_path / "compose.json", volumes=None).exit_code == 0
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["bundle"]


def test_its_help_says_what_it_takes() -> None:
    told = CliRunner().invoke(version_commands.app, ["pack", "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert told.exit_code == 0
    assert "--volumes" in told.output
    assert "60 patients" in told.output
