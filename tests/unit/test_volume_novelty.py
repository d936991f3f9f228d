"""A series that is nothing like what an outlining version was trained on is not outlined, whatever its headers say."""

import contextlib
import gzip
import shutil
import struct
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from client.dicom import decode, series
from client.inference import panel
from client.inference.preparation import Choice, Preparation
from client.inference.scope import Code
from client.inference.segment import upright
from client.inference.serving import Outlining
from client.inference.trial import TriedStudy, try_folder
from client.inference.volume_engine import VolumeEngine
from client.store.site import Site
from models import volume_novelty_training
from models.bundle import VOLUME_NOVELTY, Bundle, seal, verify
from models.errors import BundleRefused, ConfigurationError, InvalidStudy
from models.packing import pack_segmentation
from models.signing import load_trust
from models.volume_novelty import GROUPS, VolumeNovelty, features, load

Crop = tuple[NDArray[Any], Sequence[float]]
PHANTOMS = 70
SIDES = (24, 60, 72)


def phantom(volumes: ModuleType, random: np.random.Generator) -> Crop:
    """A volume as `volumes.series` makes it of `SIDES`, along S, P and L: an ellipsoid in air."""
    shape = [int(side + random.integers(-3, 4)) for side in SIDES]
    spacing = (1.5, 1.0, 1.0)
    places = np.indices(shape).transpose(1, 2, 3, 0)
    middle = np.array(shape) / 2 + random.uniform(-2, 2, 3)
    points = ((places - middle) * spacing)[..., ::-1] + volumes.CENTRE
    inside = volumes.inside(points, random.uniform(0.9, 1.1))
    levels = volumes.INSIDE + random.uniform(-15, 15), volumes.OUTSIDE + random.uniform(-15, 15)
    return np.where(inside, *levels).astype(np.float32), spacing


@pytest.fixture(scope="module")
def check(volumes: ModuleType) -> VolumeNovelty:
    """Fitted to phantoms; none of anybody's data."""
    random = np.random.default_rng(3)
    cohort = [phantom(volumes, random) for _ in range(PHANTOMS)]
    return fitted(cohort, [f"P{number}" for number in range(PHANTOMS)], hounsfield=True)


def fitted(cohort: Sequence[Crop], patients: Sequence[str], *, hounsfield: bool) -> VolumeNovelty:
    made = volume_novelty_training.fit(
        (voxels for voxels, _ in cohort), (spacing for _, spacing in cohort), patients, hounsfield=hounsfield
    )
    assert made is not None
    return made


def refused(check: VolumeNovelty, crops: Sequence[Crop]) -> float:
    return float(np.mean([not check.distance(voxels, spacing) <= check.limit for voxels, spacing in crops]))


@dataclass(frozen=True)
class Hippocampi:
    """Crops of patients whom the check was not fitted to, and the check."""

    check: VolumeNovelty
    held_out: list[Crop]


@pytest.fixture(scope="module")
def hippocampi(vigie_data: Path) -> Hippocampi:
    """One crop a patient; every third patient is held out."""
    paths = sorted((vigie_data / "hippocampus" / "images").glob("*.nii.gz"))
    crops = [nifti(path) for path in paths]
    known = [number for number in range(len(crops)) if number % 3 != 2]
    check = fitted([crops[number] for number in known], [paths[number].name for number in known], hounsfield=False)
    return Hippocampi(check, crops[2::3])


def nifti(path: Path) -> Crop:
    """The voxels of a NIfTI-1 file along its own axes, and mm between them; these files' axes run to R, A and S."""
    content = gzip.decompress(path.read_bytes())
    sides, (kind,) = struct.unpack("<3h", content[42:48]), struct.unpack("<h", content[70:72])
    spacing, (start,) = struct.unpack("<3f", content[80:92]), struct.unpack("<f", content[108:112])
    number = {2: "<u1", 4: "<i2", 8: "<i4", 16: "<f4", 64: "<f8", 512: "<u2"}[kind]
    return np.frombuffer(content, number, int(np.prod(sides)), int(start)).reshape(sides, order="F"), spacing


def test_crops_of_other_patients_are_read(hippocampi: Hippocampi) -> None:
    assert len(hippocampi.held_out) > 50
    assert refused(hippocampi.check, hippocampi.held_out) <= 0.05


def test_crops_that_do_not_lie_as_their_header_says_are_refused(hippocampi: Hippocampi) -> None:
    some = hippocampi.held_out[::3]
    random = np.random.default_rng(4)
    for name, changed in {
        "left is right": [(np.flip(voxels, 0), spacing) for voxels, spacing in some],
        "front is back": [(np.flip(voxels, 1), spacing) for voxels, spacing in some],
        "head is feet": [(np.flip(voxels, 2), spacing) for voxels, spacing in some],
        "turned": [(np.rot90(voxels, 2, (0, 1)), spacing) for voxels, spacing in some],
        "inverted": [(float(voxels.max()) - voxels.astype(np.float32), spacing) for voxels, spacing in some],
        "twice the size": [(voxels, [2 * side for side in spacing]) for voxels, spacing in some],
        "noise": [(random.normal(size=voxels.shape), spacing) for voxels, spacing in some],
    }.items():
        assert refused(hippocampi.check, changed) >= 0.85, name


def test_a_crop_that_came_as_dicom_is_read_and_other_series_are_not(
    hippocampi: Hippocampi, vigie_data: Path, volumes: ModuleType, tmp_path: Path
) -> None:
    """A patient's crop as a scanner's series goes the node's way to the check, and lies as those of the cohort do."""
    with tarfile.open(vigie_data / "series" / "mr_brain_ge_pd_20slices.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    brain, *nothing = stacks(tmp_path.rglob("*.dcm"), volumes).values()
    assert not nothing
    others = list(stacks((vigie_data / "dicom").glob("[CM][TR]__*"), volumes).values())
    assert len(others) >= 2
    voxels, spacing = brain
    for low in ((40, 40, 4), (110, 90, 8), (150, 140, 12)):  # cut to the size of a hippocampus crop
        sides = [round(mm / side) for mm, side in zip((35, 51, 36), spacing, strict=True)]
        others.append((voxels[tuple(slice(at, at + side) for at, side in zip(low, sides, strict=True))], spacing))

    (own,) = stacks((vigie_data / "hippocampus" / "dicom").rglob("*.dcm"), volumes).values()

    assert refused(hippocampi.check, [own]) == 0
    assert refused(hippocampi.check, [brain, *others]) == 1


class Paths:
    """The digest of a file is its path."""

    def path(self, digest: str) -> Path:
        return Path(digest)


def stacks(paths: Iterable[Path], volumes: ModuleType) -> dict[str, Crop]:
    """Every series of these files that makes a volume, by the name of its first file, along R, A and S."""
    planes: dict[str, list[series.Plane]] = {}
    for path in sorted(paths):
        with contextlib.suppress(InvalidStudy):
            header = decode.read_header(path)
            planes.setdefault(str(header.get("SeriesInstanceUID")), []).extend(series.planes(str(path), header))
    found: dict[str, Crop] = {}
    for members in planes.values():
        if len(members) >= series.MIN_SLICES:
            with contextlib.suppress(InvalidStudy):
                volume = series.read(series.stack(members), Paths())
                found[Path(members[0].digest).name] = upright(volume, volumes.declared(axes="RAS"))
    return found


def test_phantoms_like_the_cohorts_are_read_and_others_are_not(check: VolumeNovelty, volumes: ModuleType) -> None:
    random = np.random.default_rng(5)
    others = [phantom(volumes, random) for _ in range(24)]
    assert refused(check, others) <= 0.05
    for name, changed in {
        "inverted": [(volumes.OUTSIDE + volumes.INSIDE - voxels, spacing) for voxels, spacing in others],
        "in other units": [(voxels + 1024, spacing) for voxels, spacing in others],
        "twice the size": [(voxels, [2 * side for side in spacing]) for voxels, spacing in others],
        "lying": [(np.swapaxes(voxels, 0, 1), spacing) for voxels, spacing in others],
        "empty": [(np.full_like(voxels, -1000), spacing) for voxels, spacing in others],
        "no numbers": [(voxels * np.nan, spacing) for voxels, spacing in others],
        "noise": [(random.uniform(-1000, 1000, voxels.shape), spacing) for voxels, spacing in others],
    }.items():
        assert refused(check, changed) >= 0.95, name


def test_a_cohort_that_is_all_alike_but_for_a_few_leaves_the_check_shut(volumes: ModuleType, tmp_path: Path) -> None:
    """Of two-valued phantoms that are the same to the voxel, the few that are not made a limit of thousands."""
    voxels, spacing = phantom(volumes, np.random.default_rng(1))
    voxels = np.where(voxels > (voxels.min() + voxels.max()) / 2, 40, -800).astype(np.float32)
    cohort = [(np.roll(voxels, 1, 2) if number % 18 == 17 else voxels, spacing) for number in range(PHANTOMS)]
    made = fitted(cohort, [f"P{number}" for number in range(PHANTOMS)], hounsfield=True)
    assert made.limit <= 3
    assert refused(made, cohort) <= 0.05
    random = np.random.default_rng(2)
    assert refused(made, [(-760 - voxels, spacing), (random.uniform(-1000, 1000, voxels.shape), spacing)]) == 1
    made.save(tmp_path / "check.npz")
    assert load(tmp_path / "check.npz").limit == pytest.approx(made.limit)


@settings(max_examples=15, deadline=None)
@given(st.floats(0.05, 20), st.floats(-500, 500), st.integers(0, 99))
def test_what_a_scanner_multiplies_and_adds_changes_nothing_where_there_are_no_hounsfield_units(
    gain: float, offset: float, seed: int
) -> None:
    voxels = np.random.default_rng(seed).normal(size=(9, 20, 33)).cumsum(1).astype(np.float32)
    plain, changed = (features(one, (1.0, 1.0, 2.0), hounsfield=False) for one in (voxels, voxels * gain + offset))
    assert plain is not None
    assert changed is not None
    numbers = slice(0, GROUPS["extents"] + GROUPS["levels"])
    assert np.allclose(plain[numbers], changed[numbers], atol=1e-3)
    assert np.abs(plain - changed).mean() < 0.05  # a pixel at the edge of a rank goes to the next


def test_too_few_patients_set_no_limit_and_one_without_structure_is_named(volumes: ModuleType) -> None:
    one = phantom(volumes, np.random.default_rng(6))
    few = [f"P{number % 59}" for number in range(PHANTOMS)]
    fit = volume_novelty_training.fit
    assert fit([one[0]] * PHANTOMS, [one[1]] * PHANTOMS, few, hounsfield=True) is None
    patients = [f"P{number}" for number in range(PHANTOMS)]
    flat = [one[0], np.zeros((9, 9, 9)), *[one[0]] * (PHANTOMS - 2)]
    with pytest.raises(ConfigurationError, match="training volume 2"):
        fit(flat, [one[1]] * PHANTOMS, patients, hounsfield=True)


def test_a_check_comes_back_from_its_file(check: VolumeNovelty, volumes: ModuleType, tmp_path: Path) -> None:
    check.save(tmp_path / "check.npz")
    assert (tmp_path / "check.npz").stat().st_size < 1_000_000
    voxels, spacing = phantom(volumes, np.random.default_rng(7))
    assert load(tmp_path / "check.npz").distance(voxels, spacing) == pytest.approx(check.distance(voxels, spacing))


@pytest.mark.parametrize(
    "changed",
    [
        {"planes_centre": np.zeros(5)},
        {"planes_variances": np.zeros(0)},
        {"levels_scale": np.zeros(GROUPS["levels"])},
        {"extents_rest": -1.0},
        {"limit": np.nan},
        {"limit": -0.1},
        {"limit": 1e9},
        {"typical": np.zeros(sum(GROUPS.values()))},
        {"planes_axes": np.array(["words"])},
        {"planes_unit": np.array([object()])},
        None,
    ],
)
def test_a_file_that_is_no_check_is_refused(
    check: VolumeNovelty, tmp_path: Path, changed: dict[str, Any] | None
) -> None:
    path = tmp_path / "check.npz"
    check.save(path)
    if changed is None:
        path.write_bytes(path.read_bytes()[:5000])
    else:
        with np.load(path) as file:
            arrays: dict[str, Any] = dict(file) | changed
        np.savez(path, **arrays)
    with pytest.raises(BundleRefused):
        load(path)


@pytest.fixture(scope="module")
def version(
    check: VolumeNovelty, volumes: ModuleType, vendor_key: Ed25519PrivateKey, tmp_path_factory: pytest.TempPathFactory
) -> Bundle:
    """A version that ships the check."""
    said, folder = volumes.facts(name="wary", rank=1), tmp_path_factory.mktemp("version") / "wary"
    return pack_segmentation(
        folder, said, volumes.network(), volumes.PREPROCESSING, "# Wary", vendor_key, "vendor", novelty=check
    )


def test_the_check_is_part_of_the_signed_version_and_its_card_says_so(
    check: VolumeNovelty,
    version: Bundle,
    volumes: ModuleType,
    vendor_key: Ed25519PrivateKey,
    bundles: ModuleType,
    tmp_path: Path,
) -> None:
    found = version.read_volume_novelty()
    assert found is not None
    assert found.limit == pytest.approx(check.limit)
    assert f"beyond a distance of {check.limit:.2f}" in version.card
    without = volumes.build(tmp_path / "without", vendor_key)
    assert without.read_volume_novelty() is None
    assert "ships no check" in without.card
    (tmp_path / "trust").mkdir()
    bundles.trust(tmp_path / "trust", vendor_key)
    check.save(without.folder / VOLUME_NOVELTY)
    with pytest.raises(BundleRefused, match=r"volume_novelty\.npz is not in the manifest"):
        verify(without.folder, load_trust(tmp_path / "trust"))
    (without.folder / VOLUME_NOVELTY).write_bytes(b"nothing")
    with pytest.raises(BundleRefused, match="no readable novelty check"):
        seal(without.folder, vendor_key, bundles.SIGNER).read_volume_novelty()
    with pytest.raises(BundleRefused, match="accepts noise"):  # what no hospital could load is not signed
        pack_segmentation(
            tmp_path / "lax",
            volumes.facts(),
            volumes.network(),
            volumes.PREPROCESSING,
            "# Lax",
            vendor_key,
            "vendor",
            novelty=replace(check, limit=1e9),
        )


def test_a_node_loads_the_check_with_the_version(
    site: Site, check: VolumeNovelty, version: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def settle(_preparation: Preparation) -> Choice:
        return Choice(contenders={}, unusable="")

    monkeypatch.setattr(Preparation, "settle", settle)  # seconds, and nothing is prepared here
    shutil.copytree(version.folder, site.versions / version.digest)
    loaded = panel.load(site, version.digest)
    assert loaded.novelty is not None
    assert loaded.novelty.limit == pytest.approx(check.limit)


class Forbidden:
    """Fails the test that computes anything."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was asked for, of a series that is refused")


def test_a_strange_series_is_left_out_and_a_strange_study_is_left_to_the_next_version(
    site: Site,
    check: VolumeNovelty,
    version: Bundle,
    volumes: ModuleType,
    vendor_key: Ed25519PrivateKey,
    tmp_path: Path,
) -> None:
    trusting = volumes.build(tmp_path / "trusting", vendor_key)  # of a lower rank, without a check
    declared = volumes.declared()
    wary, last = (
        Outlining(one, VolumeEngine(one, declared), volumes.PREPROCESSING, declared, 0.5, one.read_volume_novelty())
        for one in (version, trusting)
    )
    count, *shape = SIDES
    known = volumes.series(count, shape=tuple(shape))
    wide = volumes.series(count, shape=tuple(shape), spacing=(2.0, 2.0), size=1.5)
    for image in wide:
        image.StudyInstanceUID = known[0].StudyInstanceUID

    def tried(members: Sequence[Outlining], *images: Dataset) -> TriedStudy:
        folder = tmp_path / "scanner"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for number, image in enumerate(images):
            (folder / f"{number}.dcm").write_bytes(volumes.content(image))
        return try_folder(site, lambda: members, folder).studies[0]

    whole = tried([last, wary], *known)
    assert (whole.outcome, whole.version, whole.reasons) == ("scored", "wary@1", [])
    partial = tried([wary], *known, *wide)
    assert (partial.outcome, [why.code for why in partial.reasons]) == ("scored", [Code.NOVEL_IMAGE])
    assert {one.series for one in partial.structures} == {str(known[0].SeriesInstanceUID)}
    forbidden: Any = Forbidden()
    alone = tried([replace(wary, engine=forbidden)], *wide)
    (why,) = alone.reasons
    assert (alone.outcome, why.code) == ("refused", Code.NOVEL_IMAGE)
    assert "the series is unlike" in why.text
    assert f"limit {check.limit:.2f}" in why.text
    uneven = [image for number, image in enumerate(known) if number % 5]
    together = tried([wary], *uneven, *wide)  # another version may read the one, whatever came first
    assert (together.outcome, together.reasons[0].code) == ("refused", Code.NOVEL_IMAGE)
    next_one = tried([last, wary], *wide)
    assert (next_one.outcome, next_one.version) == ("scored", "nodule@1")
