"""A coordinator that asks an update whether a patient was trained on: told without protection, next to nothing with."""

from scripts.benchmarks.privacy import attacked, figures


def test_canaries_are_told_apart_in_a_plain_update_and_hardly_in_a_protected_one() -> None:
    plain, protected = (
        figures([attacked(budget, seed, patients=40, canaries=20) for seed in (0, 1)]) for budget in (0.0, 2.0)
    )
    seen = max(plain["loss"], plain["gradient"])
    assert seen > 0.8  # an attack that finds nothing shows nothing
    assert max(protected["loss"], protected["gradient"]) < 0.5 + (seen - 0.5) / 2
