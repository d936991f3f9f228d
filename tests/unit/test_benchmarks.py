"""Protects what the benches conclude: a lost image, a second outcome or a changed object may not go uncounted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import insert

from client.store.archive import Archive
from client.store.site import Site
from client.store.tables import delivery, outcome
from scripts.benchmarks import load, pictures
from scripts.benchmarks.load import Found, Sent, examine, hour
from scripts.benchmarks.modality import Association, prepare
from scripts.benchmarks.pacs import Pacs, Stored
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
    content = (pacs.folder / f"{first.sop_uid}.dcm").read_bytes()
    assert first.sha256 == second.sha256 == hashlib.sha256(content).hexdigest()


def test_a_disk_that_is_too_small_is_said_before_anything_is_sent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from models.errors import ConfigurationError

    monkeypatch.setattr(load, "_LEFT_FREE", 1 << 60)
    with pytest.raises(ConfigurationError, match="--scale"):
        load.run(["--scale", "0.1", "--folder", str(tmp_path)])
