"""Of several versions that fit, the one that is better here reads, and the reason is told."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.inference.choice import EVERYBODY, Candidate, Counts, choose, stratum_of

A, B = Candidate("a" * 64, "a@1", 2), Candidate("b" * 64, "b@1", 1)
STRATUM = "F|40-64|siemens"


def counts(right: float, n: int = 100) -> Counts:
    hits = round(right * n)
    return Counts(hits, n - hits, hits, n - hits)


def test_one_that_fits_is_taken() -> None:
    assert choose([A], {}, STRATUM).why == "only"


def test_without_cases_the_vendors_order_decides() -> None:
    few = {(A.digest, EVERYBODY): counts(1.0, 19)}

    choice = choose([A, B], few, STRATUM)

    assert (choice.digest, choice.why) == (B.digest, "vendor")


def test_patients_like_this_one_count_before_all_others() -> None:
    record = {
        (A.digest, EVERYBODY): counts(0.9),
        (B.digest, EVERYBODY): counts(0.7),
        (A.digest, STRATUM): counts(0.6),
        (B.digest, STRATUM): counts(0.8),
    }

    here, elsewhere = choose([A, B], record, STRATUM), choose([A, B], record, "M|18-39|ge")

    assert (here.digest, here.why) == (B.digest, "stratum")
    assert (elsewhere.digest, elsewhere.why) == (A.digest, "site")
    assert "0." in here.text
    assert STRATUM in here.text


def test_much_evidence_counts_more_than_a_lucky_few() -> None:
    record = {(A.digest, EVERYBODY): counts(0.9, 400), (B.digest, EVERYBODY): counts(0.95, 20)}

    assert choose([B, A], record, STRATUM).digest == A.digest


@given(st.permutations([A, B, Candidate("c" * 64, "c@1", 1)]), st.sampled_from([0.5, 0.8, 0.95]))
def test_the_order_of_the_candidates_does_not_matter(order: list[Candidate], right: float) -> None:
    record = {(candidate.digest, EVERYBODY): counts(right) for candidate in order}

    assert choose(order, record, STRATUM).digest == B.digest


def test_the_best_is_found_in_strata_whose_best_is_known() -> None:
    """Two hundred strata, one version truly better by a tenth, both seen on the same 300 patients of each."""
    random, right = np.random.default_rng(0), 0
    for _ in range(200):
        better = A if random.random() < 0.5 else B
        record = {}
        for candidate in (A, B):
            rate = 0.9 if candidate is better else 0.8
            hits = random.binomial(150, rate, 2)
            record[candidate.digest, STRATUM] = Counts(
                int(hits[0]), 150 - int(hits[1]), int(hits[1]), 150 - int(hits[0])
            )
        right += choose([A, B], record, STRATUM).digest == better.digest
    assert right / 200 >= 0.95


@pytest.mark.parametrize(
    ("facts", "stratum"),
    [
        (("F", 50.0, "SIEMENS Healthineers"), "F|40-64|siemens"),
        (("M", 3.0, "GE MEDICAL SYSTEMS"), "M|child|ge"),
        (("", None, None), "?|?|?"),
        (("X", 80.0, "  "), "?|65+|?"),
    ],
)
def test_strata(facts: tuple[str, float | None, str | None], stratum: str) -> None:
    assert stratum_of(*facts) == stratum
