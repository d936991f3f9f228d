"""No count under eleven leaves a hospital, and none can be worked out from what does."""

from collections import defaultdict
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import BorderRefused
from models.exchange import Evidence, Measure, Offer, TrainOrder, Update, check_answer, disclosed
from models.hyperparameters import Hyperparameters
from models.stats.disclosure import LEAST, rows
from server.release import figures

DIGEST = "d" * 64
OFFER = Offer(retraining="spring", digest=DIGEST, bundle=b"x")
HALVES = ("tp", "fn", "tn", "fp", "vendor_tp", "vendor_fn", "vendor_tn", "vendor_fp")


def measure(positive: int, negative: int, tp: int, tn: int, vendor_tp: int, vendor_tn: int) -> Measure:
    return Measure(
        n=positive + negative, n_positive=positive, threshold=0.123456789,
        tp=tp, fn=positive - tp, tn=tn, fp=negative - tn,
        vendor_tp=vendor_tp, vendor_fn=positive - vendor_tp, vendor_tn=vendor_tn, vendor_fp=negative - vendor_tn,
        auc=0.87654321, auc_low=0.81234567, auc_high=0.93456789,
    )  # fmt: skip


def evidence(one: Measure, mended: int | None = None, new_errors: int | None = None) -> Evidence:
    return Evidence(
        retraining="spring", digest=DIGEST, verdict="refuse", mended=mended, new_errors=new_errors, candidate_test=one
    )


@pytest.mark.parametrize("total", range(LEAST, 41))
def test_nothing_small_follows_from_what_leaves(total):
    """An attacker who knows the rule looks at every table that would have sent the same: of none of its counts, and of
    nobody between the two thresholds, is one small value left."""
    alike = defaultdict(list)
    for local, vendor in product(range(total + 1), repeat=2):
        alike[rows(local, vendor, total)].append((local, vendor))
    for fitting in alike.values():
        for values in (
            {local for local, _ in fitting},
            {total - local for local, _ in fitting},
            {vendor for _, vendor in fitting},
            {total - vendor for _, vendor in fitting},
            {abs(local - vendor) for local, vendor in fitting},
        ):
            assert len(values) > 1 or min(values) >= LEAST


@given(st.data())
def test_what_was_made_fit_to_leave_passes_the_check_of_both_sides(data):
    positive, negative = data.draw(st.integers(0, 60)), data.draw(st.integers(0, 60))
    counts = [data.draw(st.integers(0, total)) for total in (positive, negative) * 2]
    one = measure(positive, negative, *counts)
    sent = disclosed(evidence(one, data.draw(st.integers(0, 40)), data.draw(st.integers(0, 40))))
    check_answer(sent, OFFER)
    assert disclosed(sent) == sent
    assert (sent.candidate_test is None) == (min(positive, negative) < LEAST)
    assert (sent.mended is None) == (sent.new_errors is None)


def test_the_digits_of_a_patients_score_stay_behind():
    sent = disclosed(evidence(measure(40, 40, 20, 20, 20, 20)))
    assert (sent.candidate_test.threshold, sent.candidate_test.auc) == (0.123, 0.877)


def test_a_hospital_large_enough_tells_all_and_a_small_one_bounds():
    large = disclosed(evidence(measure(200, 200, 170, 150, 150, 170))).candidate_test
    assert [getattr(large, name) for name in HALVES] == [170, 30, 150, 50, 150, 50, 170, 30]
    assert figures(large)["sensitivity"] == pytest.approx(0.85)
    small = disclosed(evidence(measure(100, 100, 97, 80, 80, 97))).candidate_test
    assert (small.tp, small.fn, small.tn, small.fp) == (None, None, 80, 20)
    told = figures(small)
    assert np.isnan(told["sensitivity"])  # which the registry leaves out
    # 90 to 100 of 100, each with its exact interval
    assert told["sensitivity_low"] == pytest.approx(0.824, abs=1e-3)
    assert told["sensitivity_high"] == 1.0
    assert told["specificity"] == pytest.approx(0.8)


@pytest.mark.parametrize(
    "changes",
    [
        {"candidate_test": measure(40, 40, 38, 20, 38, 20)},
        {"candidate_test": measure(10, 40, 0, 20, 0, 20)},
        {"candidate_test": measure(40, 40, 20, 20, 22, 20)},
        {"mended": 12, "new_errors": 3},
        {"mended": 12, "new_errors": None},
    ],
    ids=["small-half", "small-class", "between-thresholds", "small-change", "one-of-two"],
)
def test_evidence_that_shows_too_much_is_refused_on_both_sides(changes):
    base = Evidence(retraining="spring", digest=DIGEST, verdict="refuse")
    with pytest.raises(BorderRefused):
        check_answer(base.model_copy(update=changes), OFFER)


def test_errors_of_training_are_told_only_where_they_are_many():
    weights = {"w": np.zeros(2, np.float32)}
    order = TrainOrder(retraining="spring", round=1, base=DIGEST, hyper=Hyperparameters(), weights=weights)

    def update(cases: int, errors: int) -> Update:
        return Update(
            retraining="spring", round=1, base=DIGEST, n_cases=cases, n_errors=errors, train_loss=0.51234,
            weights=weights,
        )  # fmt: skip

    for cases, errors, told in ((100, 20, 20), (100, 3, None), (100, 95, None)):
        sent = disclosed(update(cases, errors))
        assert (sent.n_errors, sent.train_loss) == (told, 0.512)
        check_answer(sent, order)
    for cases, errors in ((100, 3), (100, 95), (9, 0)):
        with pytest.raises(BorderRefused):
            check_answer(update(cases, errors), order)
