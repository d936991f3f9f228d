"""A node that was restarted answers its first search without opening every file that it holds."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom.dataset import Dataset
from sqlalchemy import delete, insert

from client.dicomweb import part10, qido
from client.dicomweb.holdings import Holdings
from client.dicomweb.matching import Query
from client.dicomweb.outlines import NAME
from client.store.archive import Archive
from client.store.site import Site
from client.store.tables import instance

STUDIES = 30


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were opened."""
    found: list[Path] = []
    really = part10.opened

    def note(path: Path) -> Any:
        found.append(path)
        return really(path)

    monkeypatch.setattr(part10, "opened", note)
    return found


@pytest.fixture
def held(site: Site, scored: Callable[..., str], radiograph: Callable[..., Dataset]) -> list[str]:
    """Studies, each with its image and the node's own report and picture, the oldest first."""
    uids = [scored(objects=True) for _ in range(STUDIES)]
    archive = Archive(site.archive)
    with site.database.write() as connection:
        for number, uid in enumerate(uids):
            image = radiograph(StudyInstanceUID=uid, PatientName=f"Name^{number:02}")
            file = io.BytesIO()
            image.save_as(file, enforce_file_format=True)
            connection.execute(
                insert(instance).values(
                    sop_uid=str(image.SOPInstanceUID),
                    sha256=archive.store(file.getvalue()),
                    study_uid=uid,
                    series_uid=str(image.SeriesInstanceUID),
                    sop_class=str(image.SOPClassUID),
                    transfer_syntax="1.2.840.10008.1.2.1",
                    revision=1,
                    received_at=1.0,
                    modality="DX",
                )
            )
    return uids


def search(site: Site, limit: int = 5, offset: int = 0, **wanted: str) -> list[str]:
    """A search by a node that was just started: the names that it finds."""
    tags = {"name": "00100010", "uid": "0020000D", "modalities": "00080061"}
    query = Query({tags[key]: value for key, value in wanted.items()}, frozenset(), False, limit, offset, False)
    found = qido.studies(Holdings(site), query, "http://here").datasets
    return [text.split('"Alphabetic":"')[1].split('"')[0] for text in found]


@pytest.mark.usefixtures("held")
def test_a_page_opens_the_files_of_its_own_studies_alone(site: Site, opened: list[Path]) -> None:
    assert search(site) == [f"Name^{STUDIES - 1 - number:02}" for number in range(5)]
    assert len(set(opened)) == 6 * 3  # an image, a report, a picture; the sixth study tells that there are more
    opened.clear()
    assert search(site, offset=20) == [f"Name^{STUDIES - 21 - number:02}" for number in range(5)]
    assert len(set(opened)) == 6 * 3


def test_a_search_after_a_restart_finds_without_opening_what_does_not_match(
    site: Site, held: list[str], opened: list[Path]
) -> None:
    assert search(site, name="Nobody*") == []
    assert len(set(opened)) == STUDIES
    opened.clear()
    assert search(site, name="Nobody*") == []
    assert opened == []
    assert search(site, name="Name^07") == ["Name^07"]
    assert len(set(opened)) == 3
    assert search(site, limit=50, modalities="SR") == [f"Name^{STUDIES - 1 - number:02}" for number in range(STUDIES)]
    assert search(site, uid=held[3]) == ["Name^03"]


def test_a_damaged_file_of_outlines_costs_time_and_no_answer(site: Site, held: list[str], opened: list[Path]) -> None:
    search(site, name="Nobody*")
    kept = site.archive / NAME
    lines = kept.read_text().splitlines()
    assert len(lines) == STUDIES
    kept.write_text("\n".join([*lines[:10], "x" * 64 + " [1]", lines[11][:80], "\0"]))
    opened.clear()
    assert search(site, limit=50, name="Name*") == [f"Name^{STUDIES - 1 - number:02}" for number in range(STUDIES)]
    assert all(len(line) > 64 for line in kept.read_text().splitlines())
    with site.database.write() as connection:  # erased
        connection.execute(delete(instance).where(instance.c.study_uid == held[7]))
    assert search(site, name="Name^07") == []
    assert "Name^07" not in kept.read_text()
    assert "Name^08" in kept.read_text()
