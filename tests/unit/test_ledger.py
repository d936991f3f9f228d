"""The ledger shows every change made behind its back."""

import sqlite3
import threading

import pytest

from client.store.site import Site


def test_a_changed_removed_or_reordered_entry_is_found(site: Site) -> None:
    first = max((entry.seq for entry in site.ledger.entries()), default=0)
    for number in range(5):
        site.ledger.append("test", {"number": number, "share": 0.1})
    assert site.ledger.first_break() is None
    changes = (
        ("update ledger set facts = replace(facts, '0.1', '0.2') where seq = ?", first + 3),
        ("update ledger set at = at + 1 where seq = ?", first + 3),
        ("update ledger set event = 'other' where seq = ?", first + 3),
        ("delete from ledger where seq = ?", first + 3),
    )
    for statement, seq in changes:
        with sqlite3.connect(site.database.path) as connection:
            before = connection.execute("select * from ledger").fetchall()
            connection.execute(statement, (seq,))
        assert site.ledger.first_break() == seq, statement
        with sqlite3.connect(site.database.path) as connection:
            connection.execute("delete from ledger")
            connection.executemany("insert into ledger values (?, ?, ?, ?, ?, ?)", before)
    assert site.ledger.first_break() is None


def test_writers_at_the_same_time_make_one_chain(site: Site) -> None:
    threads = [
        threading.Thread(target=lambda: [site.ledger.append("test", {"n": n}) for n in range(20)]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert site.ledger.first_break() is None
    assert sum(1 for _ in site.ledger.entries("test")) == 80


def test_what_is_not_a_plain_number_is_refused(site: Site) -> None:
    with pytest.raises(ValueError, match="JSON"):
        site.ledger.append("test", {"share": float("nan")})
    assert site.ledger.first_break() is None


def test_a_patient_stays_in_one_fold_and_about_as_many_as_declared_are_in_each(site: Site) -> None:
    folds = [site.fold(f"patient-{number}", "HOSPITAL") for number in range(3000)]
    assert folds == [Site(site.folder).fold(f"patient-{number}", "HOSPITAL") for number in range(3000)]
    shares = {fold: folds.count(fold) / 3000 for fold in ("train", "gate", "test")}
    assert shares == pytest.approx({"train": 0.6, "gate": 0.2, "test": 0.2}, abs=0.03)
