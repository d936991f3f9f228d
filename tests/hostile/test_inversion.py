"""A coordinator that looks for the pictures behind an update: found in the smallest one, not in a protected one."""

from scripts.benchmarks.inversion import attacked, figures, protected


def test_pictures_are_found_in_the_smallest_plain_update_and_not_in_a_protected_one() -> None:
    plain, private = (
        figures([attacked(seed, protection=protected(budget), iterations=100) for seed in (0, 1)])
        for budget in (0.0, 8.0)
    )
    assert plain["identified"] >= 0.5  # of fifty pictures; an attack that finds nothing shows nothing
    assert private["identified"] <= 0.25
    assert private["likeness"] < plain["likeness"] / 2
