"""Protects the picture that a network is given: whoever prepares it, it is the one that MONAI would have made."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.data import get_testdata_files
from pydicom.dataset import Dataset

from client.dicom import decode
from client.inference import compiled, plain, preparation
from client.inference.measured import Measured, interleaved, packages
from client.inference.panel import load
from client.inference.plain import NoEqual
from client.inference.preparation import PARITY, Choice, Contender, Preparation, contend, difference, specimens
from client.inference.trial import try_folder
from client.store import versions
from client.store.site import Site
from models.bundle import seal
from models.errors import BundleRefused, InvalidPreprocessing, InvalidStudy
from models.preprocessing import DEFAULT, Preprocessing

AREA = {"_target_": "Resize", "spatial_size": [96, 80], "mode": "area"}
BILINEAR = {"_target_": "Resize", "spatial_size": [96, 80], "mode": "bilinear"}
PERCENTILES = {"_target_": "ScaleIntensityRangePercentiles", "lower": 2, "upper": 97.5, "b_min": -1, "b_max": 1}
CLIPPED = {"_target_": "ClipIntensityPercentiles", "lower": 1, "upper": 99}
RANGE = {"_target_": "ScaleIntensityRange", "a_min": -20, "a_max": 3000, "b_min": -1, "b_max": 1, "clip": True}
UNIT = {"_target_": "ScaleIntensity", "minv": -1.0, "maxv": 2.0}
NORMAL = {"_target_": "NormalizeIntensity"}

DECLARED: dict[str, list[dict[str, Any]]] = {
    "default": [dict(step) for step in DEFAULT],
    "area": [AREA, PERCENTILES],
    "bilinear": [BILINEAR, NORMAL],
    "range": [RANGE, BILINEAR],
    "unit": [UNIT, BILINEAR, {"_target_": "NormalizeIntensity", "subtrahend": 0.3, "divisor": 0.2}],
    "crop": [{"_target_": "CenterSpatialCrop", "roi_size": [33, 50]}, UNIT],
    "pad": [{"_target_": "SpatialPad", "spatial_size": [150, 91]}, {"_target_": "NormalizeIntensity", "divisor": 900}],
    "both": [{"_target_": "ResizeWithPadOrCrop", "spatial_size": [71, 120]}, RANGE],
    "end": [{"_target_": "SpatialPad", "spatial_size": [150, 91], "method": "end"}, CLIPPED, UNIT],
}
BY_DALI = ("bilinear", "range", "unit", "crop", "pad", "both")
NOT_HAD = {
    "HistogramNormalize": {"_target_": "HistogramNormalize"},
    "MedianSmooth": {"_target_": "MedianSmooth", "radius": 1},
    "Resize bicubic": {"_target_": "Resize", "spatial_size": [32, 32], "mode": "bicubic"},
    "Resize area": {"_target_": "Resize", "spatial_size": [32, 32], "anti_aliasing": True},
    "Resize bilinear": BILINEAR | {"align_corners": True},
    "NormalizeIntensity": {"_target_": "NormalizeIntensity", "nonzero": True},
    "ScaleIntensityRange": {"_target_": "ScaleIntensityRange", "a_min": 0, "a_max": 1},
}


@pytest.fixture
def apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the worker, which has loaded neither MONAI nor torch: contenders are tried in a process of their own."""
    monkeypatch.setattr(preparation, "_harmless", lambda: False)


def picture(rows: int, columns: int, seed: int = 0, low: float = 0, high: float = 4095) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    return np.rint(low + (high - low) * rng.random((rows, columns)) ** 2).astype(np.float32)


def held(does: Callable[[NDArray[np.float32]], Any], reference: Preprocessing, pixels: NDArray[np.float32]) -> bool:
    """Whether a program made something of the picture; and if, the same as the reference."""
    before = pixels.copy()
    made = does(pixels)
    np.testing.assert_array_equal(pixels, before)  # they are shown to a reader afterwards
    if made is None:
        return False
    assert difference(made, reference(pixels)[0]) <= PARITY
    return True


@pytest.mark.parametrize("name", DECLARED)
@given(rows=st.integers(1, 300), columns=st.integers(1, 300), low=st.integers(-2000, 2000), span=st.integers(0, 60000))
def test_numpy_makes_what_monai_makes(name: str, rows: int, columns: int, low: int, span: int) -> None:
    does = plain.compiled(DECLARED[name])
    assert not isinstance(does, NoEqual)
    held(does, Preprocessing(DECLARED[name]), picture(rows, columns, rows, low, low + span))


@pytest.mark.peers("DALI")
@pytest.mark.parametrize("name", BY_DALI)
def test_dali_makes_what_monai_makes(name: str) -> None:
    does = compiled.compiled(DECLARED[name], 1)
    assert not isinstance(does, NoEqual)
    reference = Preprocessing(DECLARED[name])
    shapes = [(1, 7), (3, 200), (51, 35), (96, 80), (97, 64), (640, 512), (1500, 1201)]
    assert sum(held(does, reference, picture(*shape)) for shape in shapes) >= 6
    for pixels in specimens(volumes=False)[1:]:
        held(does, reference, pixels)


@pytest.mark.parametrize("step", NOT_HAD)
def test_what_has_no_equal_is_left_to_monai(step: str) -> None:
    for found in (plain.compiled([NOT_HAD[step]]), compiled.compiled([NOT_HAD[step]], 1)):
        assert found == NoEqual(step)
    assert compiled.compiled([AREA], 1) == NoEqual("Resize area")


@pytest.mark.parametrize("declared", [[RANGE], [NORMAL], [PERCENTILES], [UNIT]])
def test_numpy_brings_a_volume_into_the_range_that_monai_brings_it_into(declared: list[dict[str, Any]]) -> None:
    does = plain.compiled(declared, volumes=True)
    assert not isinstance(does, NoEqual)
    for voxels in specimens(volumes=True):
        made = does(voxels)
        assert made is None or difference(made, Preprocessing(declared).intensities(voxels)) <= PARITY
    assert plain.compiled([AREA], volumes=True) == NoEqual("Resize area")


def radiographs(folder: Path) -> Iterator[tuple[Path, NDArray[np.float32]]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ours = [Path(name) for name in get_testdata_files("*.dcm")]
    seen: set[str] = set()
    for path in (*sorted((folder / "dicom").glob("*.dcm")), *sorted((folder / "hippocampus").rglob("*.dcm")), *ours):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest not in seen:
            seen.add(digest)
            with contextlib.suppress(InvalidStudy):
                yield path, _picture(path)


def _picture(path: Path) -> NDArray[np.float32]:
    try:
        return decode.read(path).pixels
    except InvalidStudy as error:
        if error.reason != "multi-frame":
            raise
        return next(decode.read_planes(path, decode.read_header(path), [0])).astype(np.float32)


def test_every_file_that_decodes_is_prepared_as_monai_prepares_it(vigie_data: Path) -> None:
    with_dali = bool(packages(compiled.PACKAGE)[compiled.PACKAGE])
    programs: list[tuple[Preprocessing, list[Any]]] = []
    for name in ("default", "bilinear", "range", "both"):
        made = [plain.compiled(DECLARED[name])]
        made += [compiled.compiled(DECLARED[name], 1)] if with_dali and name in BY_DALI else []
        assert not any(isinstance(does, NoEqual) for does in made)
        programs.append((Preprocessing(DECLARED[name]), made))
    files = asked = answered = 0
    for path, pixels in radiographs(vigie_data):
        files += 1
        for reference, contenders in programs:
            wanted = reference(pixels)[0]
            for does in contenders:
                prepared = does(pixels)
                asked += 1
                answered += prepared is not None
                assert prepared is None or difference(prepared, wanted) <= PARITY, (path.name, reference.declaration)
    assert files >= 100
    assert answered > 0.9 * asked


def twice(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    return pixels * 2


def slowly(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    time.sleep(0.005)
    return pixels * 2


def test_the_faster_one_is_taken_and_only_if_it_gives_the_same() -> None:
    pixels = [picture(8, 8), picture(9, 9)]

    def off(given: NDArray[np.float32]) -> NDArray[np.float32]:
        return twice(given) + np.float32(2 * PARITY) * np.float32(np.ptp(twice(given)))

    def breaks(_given: NDArray[np.float32]) -> NDArray[np.float32]:
        raise RuntimeError

    found = contend(slowly, {"numpy": twice, "dali": Contender(verdict="not-installed")}, pixels)
    assert (found.by, found.contenders["monai"].verdict, found.contenders["numpy"].verdict) == (
        "numpy",
        "slower",
        "chosen",
    )
    assert found.contenders["dali"].verdict == "not-installed"
    found = contend(slowly, {"numpy": off, "dali": breaks}, pixels)
    assert found.by == "monai"
    assert [found.contenders[name].verdict for name in ("numpy", "dali")] == ["differs", "fails"]
    assert "differs by 2.0e-03" in found.described()
    assert contend(twice, {"numpy": slowly}, pixels).by == "monai"
    # nothing but pictures of which only the reference can say is no proof
    assert contend(slowly, {"numpy": lambda _given: None}, pixels).by == "monai"


@pytest.mark.usefixtures("apart")
def test_what_was_found_is_kept_until_something_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def tried(task: object) -> tuple[Choice, bool]:
        asked.append(task)
        return Choice(by="numpy", contenders={}), True

    monkeypatch.setattr(preparation, "_tried_apart", tried)

    def by(**changes: Any) -> str:
        values: dict[str, Any] = {"threads": 1, "volumes": False}
        return Preparation(DEFAULT, Measured(tmp_path / "measured"), **(values | changes)).by

    assert by().startswith("numpy ")
    assert by().startswith("numpy ")
    assert len(asked) == 1
    by(threads=2)
    assert len(asked) == 2
    monkeypatch.setattr(preparation, "machine", lambda: {"processor": "another"})
    by()
    assert len(asked) == 3
    for torn in (tmp_path / "measured").iterdir():
        torn.write_text(torn.read_text()[:-20])
    by()
    assert len(asked) == 4
    kept = [path for path in (tmp_path / "measured").iterdir() if "another" in path.read_text()]
    kept[0].write_text(json.dumps(json.loads(kept[0].read_text()) | {"found": {"by": "somebody", "contenders": {}}}))
    by()
    assert len(asked) == 5


def test_a_folder_that_cannot_be_written_costs_a_measurement_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "measured").write_text("a file")
    measured = Measured(tmp_path / "measured")
    measured.remember("subject", {"machine": "this"}, {"by": "numpy"})
    assert measured.recall("subject", {"machine": "this"}) is None


def test_contenders_take_turns() -> None:
    turns: list[str] = []
    interleaved({name: lambda name=name: turns.append(name) for name in "ab"}, rounds=2)
    assert "".join(turns) == "ababab"


@pytest.mark.usefixtures("apart")
def test_a_library_that_ends_its_process_does_not_end_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another DALI stands first on the path; what it does, it does to the process that tries it."""
    package = tmp_path / "path" / "nvidia" / "dali"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").write_text("import os\nos.abort()\n")
    root = Path(preparation.__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(map(str, (tmp_path / "path", root))))
    measured = Measured(tmp_path / "measured")
    found = Preparation([BILINEAR, NORMAL], measured, 1, volumes=False).settle()
    assert found.contenders["dali"].verdict == "crashed"
    assert found.contenders["numpy"].verdict in ("chosen", "slower")
    assert Preparation([BILINEAR, NORMAL], measured, 1, volumes=False).settle() == found


@pytest.mark.parametrize(("error", "verdict"), [(ImportError, "not-installed"), (OSError, "fails")])
def test_a_node_without_dali_does_without_it(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception], verdict: str
) -> None:
    def absent(_name: str) -> Any:
        raise error

    monkeypatch.setattr(compiled.importlib, "import_module", absent)
    task = preparation.Task((BILINEAR, NORMAL), 1, False, ("numpy", "dali"))
    found = preparation.contender("dali", task)
    assert isinstance(found, Contender)
    assert found.verdict == verdict


@pytest.mark.usefixtures("apart")
def test_where_nothing_can_be_tried_monai_does_it_and_it_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation.sys, "executable", str(tmp_path / "no-python"))
    prepared = Preparation(DEFAULT, Measured(tmp_path / "measured"), 1, volumes=False)
    assert prepared.made(picture(64, 64)).by.startswith("monai ")
    assert not (tmp_path / "measured").exists()


def test_where_trying_costs_nothing_no_process_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that judges a version has MONAI and torch; without DALI nothing that is tried can end it."""
    import monai  # noqa: F401  # pyright: ignore[reportUnusedImport]
    import torch

    monkeypatch.setattr(compiled, "find_spec", lambda _name: None)
    monkeypatch.setattr(preparation.sys, "executable", str(tmp_path / "no-python"))
    before, measured = torch.get_num_threads(), Measured(tmp_path / "measured")

    found = Preparation([AREA, NORMAL], measured, 1, volumes=False).settle()

    assert found.contenders["numpy"].verdict in ("chosen", "slower")
    assert found.contenders["dali"].verdict in ("not-installed", "no-equal")
    assert torch.get_num_threads() == before
    assert Preparation([AREA, NORMAL], measured, 1, volumes=False).settle() == found  # and is remembered


def test_neither_dali_nor_a_library_that_is_not_loaded_yet_enters_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    import monai
    import torch

    harmless = preparation._harmless  # pyright: ignore[reportPrivateUsage]
    for here, dali, expected in [(True, False, True), (True, True, False), (False, False, False)]:
        for name, module in (("monai", monai), ("torch", torch)):
            monkeypatch.setitem(sys.modules, name, module)
            if not here:
                monkeypatch.delitem(sys.modules, name)
        monkeypatch.setattr(compiled, "find_spec", lambda _name, dali=dali: object() if dali else None)
        assert harmless() == expected


@pytest.mark.usefixtures("apart")
def test_next_to_no_contrast_is_for_the_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "_tried_apart", lambda _task: (Choice(by="numpy", contenders={}), True))
    prepared = Preparation(DEFAULT, Measured(tmp_path), 1, volumes=False)
    assert prepared.made(picture(64, 64)).by.startswith("numpy ")
    flat = np.full((64, 64), 0.1, np.float32)
    made = prepared.made(flat)
    assert made.by.startswith("monai ")
    np.testing.assert_array_equal(made.tensor, Preprocessing(DEFAULT)(flat))
    with pytest.raises(InvalidStudy):
        prepared(np.full((9, 9), np.nan))


def test_the_result_says_what_prepared_its_pixels(
    site: Site, radiograph: Callable[..., Dataset], tmp_path: Path
) -> None:
    serving = versions.serving(site, "brightness")
    assert serving is not None
    folder = tmp_path / "folder"
    folder.mkdir()
    radiograph(0.6, rows=400, columns=300).save_as(folder / "good.dcm", enforce_file_format=True)
    loaded = load(site, serving.digest)
    (tried,) = try_folder(site, lambda: [loaded], folder).studies
    assert tried.prepared_by == loaded.preprocessing.by
    assert tried.prepared_by.split()[0] in ("monai", "numpy", "dali")


def test_a_node_that_has_found_out_loads_neither_torch_nor_monai(site: Site) -> None:
    serving = versions.serving(site, "brightness")
    assert serving is not None
    prepares = load(site, serving.digest).preprocessing
    if not prepares.by.startswith("numpy"):
        pytest.skip("on this machine another one is the faster one")
    code = (
        "import pathlib, sys, numpy as np\n"
        "from client.inference.panel import load\n"
        "from client.store.site import Site\n"
        f"loaded = load(Site(pathlib.Path({str(site.folder)!r})), {serving.digest!r})\n"
        "assert loaded.preprocessing.made(np.eye(90) * 4000).by.startswith('numpy')\n"
        "assert not {'torch', 'monai', 'nvidia.dali'} & set(sys.modules), 'loaded'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


FAILING: list[dict[str, Any]] = [
    {"_target_": "ScaleIntensityRange", "a_min": "x", "a_max": 1, "b_min": 0, "b_max": 1},
    {"_target_": "ScaleIntensityRange", "a_min": "x"},
]


@pytest.mark.parametrize("volumes_", [True, False])
@pytest.mark.parametrize("step", FAILING)
def test_steps_that_nobody_can_do_are_not_monai_s_to_do(step: dict[str, Any], volumes_: bool, tmp_path: Path) -> None:
    import monai  # noqa: F401  # pyright: ignore[reportUnusedImport]

    found = Preparation([step], Measured(tmp_path), 1, volumes=volumes_).settle()

    assert found.unusable
    assert "ScaleIntensityRange" in found.unusable
    assert "nobody" in found.described()
    assert not [*tmp_path.iterdir()]  # a refusal is found anew each time


def test_what_a_picture_becomes_is_what_the_network_takes() -> None:
    to_64 = {"_target_": "Resize", "spatial_size": [64, 64]}
    Preprocessing([to_64]).prove((1, 64, 64), volumes=False)
    Preprocessing([UNIT]).prove((1, 64, 64), volumes=False)  # reads pictures of this size alone
    with pytest.raises(InvalidPreprocessing, match="network takes"):
        Preprocessing([to_64]).prove((1, 32, 32), volumes=False)
    Preprocessing([UNIT]).prove((1, 16, 16, 16), volumes=True)
    for sides in ([32, 32, 32], [12, 33, 41]):
        with pytest.raises(InvalidPreprocessing, match="of a volume of"):
            Preprocessing([{"_target_": "Resize", "spatial_size": sides}]).prove((1, 32, 32, 32), volumes=True)


@pytest.mark.parametrize("step", [*FAILING, {"_target_": "Resize", "spatial_size": [32, 32, 32]}, "Resize"])
def test_a_signed_version_whose_steps_cannot_be_done_is_not_loaded(
    step: Any, site: Site, volumes: ModuleType, vendor_key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    """Packed by another release: the signature says who declared the steps, not that anybody can do them."""
    bundle = volumes.build(tmp_path / "volume", vendor_key)
    path = bundle.folder / "configs" / "inference.json"
    path.write_text(json.dumps({"preprocessing": {"_target_": "Compose", "transforms": [step]}}))
    bundle = seal(bundle.folder, vendor_key, "vendor")
    shutil.copytree(bundle.folder, site.versions / bundle.digest)

    with pytest.raises(BundleRefused, match=r"nodule@1.*preprocessing"):
        load(site, bundle.digest)
