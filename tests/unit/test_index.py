"""What comes at the same time is committed together, and one arrival that cannot be entered costs no other one."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from sqlalchemy import event, select, text
from sqlalchemy.exc import IntegrityError, OperationalError

from client.arrival.index import Arrival, Filed, Index
from client.store.site import Site
from client.store.tables import instance, study

AN_ARRIVAL = Arrival(
    sop_uid="1.2.3",
    sha256="0" * 64,
    study_uid="1.9",
    series_uid="1.9.1",
    sop_class="1.2.840.10008.5.1.4.1.1.2",
    transfer_syntax="1.2.840.10008.1.2.1",
    patient_id="P1",
    issuer="",
    accession="",
    calling_ae="CT1",
    picture=True,
)


def arrival(number: int, **changes: Any) -> Arrival:
    named = {"sop_uid": f"1.2.{number}", "sha256": f"{number:064d}", "study_uid": f"1.5.{number}"}
    return replace(AN_ARRIVAL, **(named | changes))


def together(
    site: Site, index: Index, eventually: Callable[..., Any], arrivals: list[Arrival]
) -> list[Filed | BaseException | None]:
    """File them as one batch: nobody can commit until all are there."""

    def commit(one: Arrival) -> Future[Filed]:
        filed = index.file(one)
        filed.exception()
        return filed

    with ThreadPoolExecutor(len(arrivals) + 1) as pool:
        with site.database.write():
            first = pool.submit(commit, arrival(0))  # has the turn, and waits for the lock
            eventually(lambda: first.running() and index._arrivals.empty() and index._turn.locked())
            rest = [pool.submit(commit, one) for one in arrivals]
            eventually(lambda: index._arrivals.qsize() == len(arrivals))
        first.result()
        return [one.result().exception() or one.result().result() for one in rest]


def test_every_image_of_a_prior_is_kept_and_those_beside_it_too(site: Site, eventually: Callable[..., Any]) -> None:
    index = Index(site)
    prior = [arrival(100 + number, study_uid="1.9", fetched=True) for number in range(20)]
    others = [arrival(200 + number) for number in range(20)]
    mixed = [one for pair in zip(prior, others, strict=True) for one in pair]
    assert together(site, index, eventually, mixed) == [Filed.NEW] * 40
    with site.database.read() as connection:
        assert len(connection.execute(select(instance).where(instance.c.study_uid == "1.9")).all()) == 20
        states = dict(connection.execute(select(study.c.uid, study.c.state)).all())  # type: ignore[arg-type]
    assert states == {"1.9": "prior", "1.5.0": "receiving"} | {one.study_uid: "receiving" for one in others}


def test_one_that_the_database_does_not_take_costs_no_other_one(site: Site, eventually: Callable[..., Any]) -> None:
    index = Index(site)
    wrong: Any = arrival(7, sop_class=None)
    filed = together(site, index, eventually, [arrival(5), arrival(6), wrong, arrival(8)])
    assert isinstance(filed.pop(2), IntegrityError)
    assert filed == [Filed.NEW] * 3


def test_a_full_database_is_tried_once_for_all(site: Site, eventually: Callable[..., Any]) -> None:
    with site.database.write() as connection:
        full = connection.execute(text("PRAGMA page_count")).scalar_one()
    limited = Site(site.folder)

    @event.listens_for(limited.database._engine, "connect")
    def limit(connection: Any, _record: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {full}")

    many = [arrival(number, accession="A" * 16) for number in range(1, 40)]
    try:
        filed = together(limited, Index(limited), eventually, many)
    finally:
        limited.database.close()
    errors = [one for one in filed if isinstance(one, OperationalError)]
    assert len(errors) == len(many)
    assert len(set(map(id, errors))) == 1  # all of them the one error of the one try


def test_what_is_acknowledged_was_synced(site: Site) -> None:
    # SQLite, PRAGMA synchronous: only with FULL does a commit in WAL mode survive a power cut
    for transaction in (site.database.write, site.database.read):
        with transaction() as connection:
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2
