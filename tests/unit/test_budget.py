"""A hospital's privacy budget: charged once for each order, before it is trained for; refused at the cap; kept."""

from collections.abc import Callable

import pytest

from client.federation.budget import Charge, account, after
from client.federation.budget import charge as pay
from client.store.site import Site
from models.errors import BudgetExhausted, Conflict
from models.privacy import Mechanism, epsilon

ONE = Mechanism(1.5, 0.1, 45)


def charge(site: Site, order: str, retraining: str, number: int, mechanism: Mechanism, occasion: str = "") -> None:
    pay(site, Charge(order, occasion, retraining, number, "patient", mechanism))


@pytest.fixture
def careful(make_site: Callable[..., Site]) -> Site:
    site = make_site()
    site.config.privacy.epsilon, site.config.privacy.delta = 4.0, 1e-3
    return site


def test_a_charge_survives_a_restart_and_stands_in_the_ledger(careful: Site) -> None:
    charge(careful, "a" * 64, "spring", 1, ONE)
    again = Site(careful.folder)
    again.config.privacy.epsilon, again.config.privacy.delta = 4.0, 1e-3
    assert [one.mechanism for one in account(again).charges] == [ONE]
    assert account(again).spent == epsilon([ONE], 1e-3)
    (entry,) = again.ledger.entries("privacy.spent")
    assert '"retraining":"spring"' in entry.facts


def test_the_same_order_is_charged_once(careful: Site) -> None:
    for _ in range(3):
        charge(careful, "a" * 64, "spring", 1, ONE)
    assert len(account(careful).charges) == 1
    charge(careful, "b" * 64, "spring", 1, ONE)  # the same round, but other weights: another training
    assert len(account(careful).charges) == 2


def test_the_same_order_from_other_cases_is_another_training(careful: Site) -> None:
    for occasion in ("monday", "tuesday", "monday"):
        charge(careful, "a" * 64, "spring", 1, ONE, occasion)
    assert [one.occasion for one in account(careful).charges] == ["monday", "tuesday"]


def test_what_a_retraining_has_cost_already_is_in_what_all_of_it_will(careful: Site) -> None:
    charge(careful, "a" * 64, "spring", 1, ONE)
    whole = Mechanism(ONE.noise, ONE.share, 8 * ONE.steps)
    assert after(careful, "spring", whole) == epsilon([whole], 1e-3)
    assert after(careful, "summer", whole) == epsilon([whole, ONE], 1e-3)


def test_an_order_pays_for_no_other_training(careful: Site) -> None:
    charge(careful, "a" * 64, "spring", 1, ONE)
    with pytest.raises(Conflict):
        charge(careful, "a" * 64, "spring", 1, Mechanism(0.5, 0.1, 45))


def test_at_the_cap_nothing_more_is_paid_also_for_another_retraining(careful: Site) -> None:
    for number in (1, 2):
        charge(careful, f"{number:064d}", f"retraining-{number}", number, ONE)
    spent = account(careful)
    careful.config.privacy.epsilon = spent.spent * 1.05
    with pytest.raises(BudgetExhausted, match=r"privacy\.epsilon"):
        charge(careful, f"{3:064d}", "retraining-3", 3, ONE)
    assert account(careful).charges == spent.charges
    charge(careful, f"{1:064d}", "retraining-1", 1, ONE)  # what was paid for is still answered


def test_without_a_budget_nothing_private_is_trained(make_site: Callable[..., Site]) -> None:
    with pytest.raises(BudgetExhausted):
        charge(make_site(), "a" * 64, "spring", 1, Mechanism(100.0, 0.01, 1))
