"""Protects what the benches conclude: a lost image, a second outcome or a changed object may not go uncounted."""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as some
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian
from sqlalchemy import insert, update

from client.store.archive import Archive
from client.store.site import Site
from client.store.tables import delivery, outcome
from models.children import ChildFailed
from scripts.benchmarks import hospital, inference, ingest, load, pictures, report, results, versions, volume
from scripts.benchmarks.hospital import Hospital
from scripts.benchmarks.load import Found, Sent, examine, hour
from scripts.benchmarks.modality import Association, prepare
from scripts.benchmarks.pacs import Pacs, Stored
from scripts.benchmarks.report import Report, p95
from scripts.benchmarks.stages import Stopwatch


def test_an_hour_has_the_studies_of_the_issue() -> None:
    plan = hour(scale=1.0, share=1.0, side=2048, seconds=300, seed=0)
    counts = {
        modality: [one.kind.images for one in plan if one.kind.modality == modality]
        for modality in ("DX", "US", "CT", "MR")
    }
    assert counts == {"DX": [1] * 150, "US": [1] * 63, "CT": [300] * 38, "MR": [200] * 31}
    assert [one.at for one in plan] == sorted(one.at for one in plan)


def test_a_stopwatch_gives_each_moment_to_the_innermost_step() -> None:
    now = iter([0.0, 1.0, 3.0, 7.0])
    watch = Stopwatch(clock=lambda: next(now))
    with watch.step("outer"), watch.step("inner"):
        pass
    assert watch.seconds == {"outer": 1.0 + 4.0, "inner": 2.0}


@pytest.fixture
def passed(site: Site, radiograph: Callable[..., object]) -> Callable[[], tuple[list[Sent], list[Stored]]]:
    """A hospital where one radiograph went the whole way, and what sender and PACS say of it."""

    def make() -> tuple[list[Sent], list[Stored]]:
        from client.arrival.completeness import Bounds
        from client.arrival.gateway import Gateway
        from client.arrival.receive import Receiving

        kind = pictures.Kind("DX", pictures.DX, 1, 64)
        image = next(pictures.study(kind, 0))
        gateway = Gateway(site)
        try:
            association = Association(gateway.port, site.config.ae_title)
            assert association.store(prepare(image)) == 0
            association.release()
        finally:
            gateway.close()
        assert Receiving(site, Bounds(0.0, 0.0)).complete() == 1
        uid = str(image.StudyInstanceUID)
        archive = Archive(site.archive)
        with site.database.write() as connection:
            written = connection.execute(
                insert(outcome).values(study_uid=uid, revision=1, created_at=0.0, kind="scored", reasons=[])
            )
            assert written.inserted_primary_key is not None
            number = written.inserted_primary_key[0]
            for kind_ in ("sc", "sr"):
                connection.execute(
                    insert(delivery).values(
                        sop_uid=f"1.{kind_ == 'sr':d}",
                        outcome_id=number,
                        kind=kind_,
                        sha256=archive.store(kind_.encode()),
                        state="sent",
                    )
                )
        sent = Sent(kind, 0, 0.0, uid, [str(image.SOPInstanceUID)])
        return [sent], [Stored(0.0, "1.0", uid, "OT", "a"), Stored(0.0, "1.1", uid, "SR", "b")]

    return make


def test_nothing_is_found_where_nothing_is_wrong(
    site: Site, passed: Callable[[], tuple[list[Sent], list[Stored]]]
) -> None:
    plan, stored = passed()
    again = [*stored, stored[0]]
    assert _wrong(examine(site, plan, stored)) == (0, 0, 0, 0, 0)
    assert _wrong(examine(site, plan, again)) == (0, 0, 0, 0, 1)


def test_every_kind_of_loss_is_counted(site: Site, passed: Callable[[], tuple[list[Sent], list[Stored]]]) -> None:
    plan, stored = passed()
    other = Stored(0.0, "1.0", plan[0].uid, "OT", "c")
    assert examine(site, plan, [*stored, other]).twice == 1
    assert examine(site, plan, [*stored, Stored(0.0, "9.9", plan[0].uid, "SR", "d")]).twice == 1
    assert examine(site, plan, stored[:1]).missing == 1
    never = Sent(plan[0].kind, 1, 0.0, "1.2.3", ["1.2.3.4"])
    assert _wrong(examine(site, [*plan, never], stored))[:2] == (1, 1)
    for path in site.archive.rglob("*.dcm"):
        path.chmod(0o600)
        path.write_bytes(path.read_bytes()[:-1])
    assert examine(site, plan, stored).lost == 1


def _wrong(found: Found) -> tuple[int, int, int, int, int]:
    return found.lost, found.without, found.twice, found.missing, found.resent


@pytest.mark.integration
def test_the_stand_in_notes_what_it_stores_and_remembers_it_after_a_kill(tmp_path: Path) -> None:
    from models.children import free_port

    pacs = Pacs(tmp_path / "pacs", free_port())
    message = prepare(next(pictures.study(pictures.Kind("DX", pictures.DX, 1, 64), 0)))
    pacs.start()
    try:
        for _ in range(2):
            association = Association(pacs.port, "PACS")
            assert association.store(message) == 0
            association.release()
            pacs.kill()
            pacs.start()
    finally:
        pacs.kill()
    first, second = pacs.stored()
    assert first.sop_uid == second.sop_uid == message.uid.decode()
    path = pacs.folder / f"{first.sop_uid}.dcm"
    # preamble, prefix, the group's length and the group: what comes after is what was sent
    content = path.read_bytes()[128 + 4 + 12 + dcmread(path).file_meta.FileMetaInformationGroupLength :]
    assert first.sha256 == second.sha256 == hashlib.sha256(content).hexdigest()


def test_a_disk_that_is_too_small_is_said_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from models.errors import ConfigurationError

    monkeypatch.setattr(load, "_LEFT_FREE", 1 << 60)
    with pytest.raises(ConfigurationError, match="--scale"):
        load.run(["--scale", "0.1", "--folder", str(tmp_path)])


@given(some.lists(some.floats(0, 1e6), min_size=1, max_size=40))
def test_the_95th_percentile_is_never_below_the_median(values: list[float]) -> None:
    assert statistics.median(values) <= p95(values) * (1 + 1e-9)
    assert p95(values) <= max(values)


def test_load_tells_no_95th_percentile_below_the_median_of_two(
    site: Site, passed: Callable[[], tuple[list[Sent], list[Stored]]]
) -> None:
    (sent,), stored = passed()
    plan = [replace(sent, began_at=-2.0, answered_at=-0.3), replace(sent, began_at=-2.0, answered_at=-1.1)]
    of_it = SimpleNamespace(site=site, pacs=SimpleNamespace(stored=lambda: stored))
    depths = [{"MiB": 1, "queued": 0, "pending": 0}]

    figures = load._figures(of_it, plan, depths, examine(site, plan, stored))  # type: ignore[arg-type]

    assert 0.7 <= figures["last image to outcome"]["DX"]["p95 s"] <= 1.1


def test_a_report_says_when_and_of_which_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def written() -> dict[str, Any]:
        return json.loads(report.write("none", Report({}, []), tmp_path).read_text())

    now = datetime.now(UTC)
    assert now - timedelta(seconds=1) < datetime.fromisoformat(written()["date"]) < now + timedelta(minutes=1)
    head = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    ).stdout.strip()
    assert written()["commit"].removesuffix("-dirty") == head
    monkeypatch.setenv("PATH", str(tmp_path))
    assert written()["commit"] == ""


@pytest.mark.integration
def test_a_node_that_does_not_start_is_told_with_what_its_log_says(tmp_path: Path) -> None:
    broken = Hospital(tmp_path, Ed25519PrivateKey.generate())
    (broken.site.folder / "site.yaml").write_text("no_such_setting: 1")
    with pytest.raises(ChildFailed, match="no_such_setting"):
        broken.start()
    broken.close()
    assert hospital._READY_SECONDS >= 180  # pyright: ignore[reportPrivateUsage]


@pytest.mark.integration
def test_the_walk_through_the_steps_times_the_preprocessing_that_the_node_uses(
    tmp_path: Path, site: Site, bundles: ModuleType
) -> None:
    from models.children import free_port

    key = Ed25519PrivateKey.generate()
    bundle = bundles.build(tmp_path / "brightness", key, versions.SIGNER)
    (tmp_path / "trust").mkdir()
    (tmp_path / "walked").mkdir()
    (tmp_path / "walked" / "measured").symlink_to(site.measured.resolve())  # found out by others already
    bundles.trust(tmp_path / "trust", key, versions.SIGNER)
    pacs = Pacs(tmp_path / "pacs", free_port())
    pacs.start()
    try:
        command = [sys.executable, "-m", "scripts.benchmarks.stages", str(tmp_path / "walked"), str(bundle.folder)]
        command += [str(tmp_path / "trust"), str(pacs.port), "64", "1", "2"]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=300)
    finally:
        pacs.kill()
    took = json.loads(done.stdout.splitlines()[-1])
    assert {step for step, milliseconds in took.items() if milliseconds == 0} <= {"keep the tensor"}


def _outlined(*planes: tuple[float, list[list[int]]]) -> Dataset:
    """A segmentation of planes at these heights."""
    made = Dataset()
    groups: list[Dataset] = []
    for z, _ in planes:
        place, group = Dataset(), Dataset()
        place.ImagePositionPatient = [0, 0, z]
        group.PlanePositionSequence = [place]
        groups.append(group)
    made.PerFrameFunctionalGroupsSequence = groups
    pixels = np.array([plane for _, plane in planes], np.uint8)
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.Rows, made.Columns, made.NumberOfFrames = pixels.shape[1], pixels.shape[2], len(planes)
    made.SamplesPerPixel, made.PhotometricInterpretation, made.PixelRepresentation = 1, "MONOCHROME2", 0
    made.BitsAllocated, made.BitsStored, made.HighBit = 8, 8, 7
    made.PixelData = pixels.tobytes()
    return made


def test_outlines_agree_by_where_they_lie_and_not_by_how_much_they_hold() -> None:
    ours = results.masks(_outlined((0, [[1, 0]]), (1, [[1, 1]])))
    same = results.masks(_outlined((1, [[1, 1]]), (0, [[1, 0]]), (2, [[0, 0]])))
    mirrored = results.masks(_outlined((0, [[0, 1]]), (1, [[1, 1]])))
    elsewhere = results.masks(_outlined((5, [[1, 0]]), (6, [[1, 1]])))
    assert results.dice(ours, same) == 1.0
    assert results.dice(ours, mirrored) == pytest.approx(2 / 3)
    assert results.dice(ours, elsewhere) == 0.0
    assert results.dice({}, {}) == 0.0


def test_a_report_without_a_capture_or_a_score_is_no_scored_study() -> None:
    report_, capture = Stored(0.0, "1.1", "1", "SR", "b"), Stored(0.0, "1.0", "1", "OT", "a")
    assert results.complete([report_], ["1", "2"]) == {}
    assert results.complete([report_, capture], ["1", "2"]) == {"1": report_}
    with pytest.raises(RuntimeError, match="not read"):
        results.score(Dataset())


def test_a_score_is_found_in_the_report_of_a_scored_study() -> None:
    name, number, item, group, read = (Dataset() for _ in range(5))
    name.CodeValue, number.NumericValue = "SCORE", "0.25"
    item.ConceptNameCodeSequence, item.MeasuredValueSequence = [name], [number]
    group.ContentSequence = [item]
    read.ContentSequence = [group]
    assert results.score(read) == 0.25


def test_a_study_that_the_node_refused_is_not_counted(
    site: Site, passed: Callable[[], tuple[list[Sent], list[Stored]]]
) -> None:
    (sent,), _ = passed()
    results.demand_scored(site, [sent.uid])
    with pytest.raises(RuntimeError, match="1 studies"):
        results.demand_scored(site, [sent.uid, "1.2.3"])
    with site.database.write() as connection:
        connection.execute(update(outcome).values(kind="refused"))
    with pytest.raises(RuntimeError, match="1 studies"):
        results.demand_scored(site, [sent.uid])


def test_scores_are_compared_at_both_ends() -> None:
    ours = [{"lowest score": 0.5, "highest score": 0.5}]
    assert inference._apart(ours, ours) == 0.0  # pyright: ignore[reportPrivateUsage]
    theirs = [{"lowest score": 0.4, "highest score": 0.5}]
    assert inference._apart(ours, theirs) == pytest.approx(0.1)  # pyright: ignore[reportPrivateUsage]


def test_one_label_for_everything_proves_no_agreement() -> None:
    half = np.indices((4, 4)).sum(0).astype(np.uint8) % 2
    assert volume.agreement(half, half) == (1.0, 0.5)
    assert volume.agreement(half, 1 - half) == (0.0, 0.5)
    assert volume.agreement(np.zeros_like(half), np.zeros_like(half)) == (1.0, 1.0)


def test_the_drawn_network_gives_both_labels() -> None:
    import onnxruntime

    network = volume._network(volume._balance()).SerializeToString()  # pyright: ignore[reportPrivateUsage]
    session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
    labels = volume._vigie(  # pyright: ignore[reportPrivateUsage]
        volume._voxels(96)[:, :96, :96],  # pyright: ignore[reportPrivateUsage]
        lambda windows: session.run(["logits"], {"image": windows})[0],
    )
    assert volume.agreement(labels, labels)[1] < 0.8


def test_a_run_with_other_options_replaces_no_figure(tmp_path: Path) -> None:
    whole = report.write("none", Report({}, []), tmp_path, ["--folder", "disk"])
    quick = report.write("none", Report({}, []), tmp_path, ["--folder=disk", "--rounds", "1"])
    assert (whole.name, quick.name) == ("none.json", "none-quick.json")
    written = json.loads(quick.read_text())
    assert (written["options"], written["standard"]) == (["--folder=disk", "--rounds", "1"], False)


@pytest.mark.parametrize(
    ("bench", "arguments", "said"),
    [
        (ingest.run, ["--only", "nodee"], "nodee"),
        (ingest.run, ["--rounds", "0"], "1 or more"),
        (volume.run, ["--turns", "0"], "1 or more"),
        (inference.run, ["--studies", "none"], "1 or more"),
    ],
)
def test_an_option_that_cannot_be_is_said_before_anything_starts(
    bench: Callable[[list[str]], Report], arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        bench(arguments)
    assert said in capsys.readouterr().err


def test_help_installs_nothing(tmp_path: Path) -> None:
    command = [Path(__file__).parents[2] / "scripts" / "bench", "volume", "--help"]
    environment = {**os.environ, "VIGIE_VENV": str(tmp_path / "none")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 2
    assert "scripts/install" in done.stderr
    assert not (tmp_path / "none").exists()
