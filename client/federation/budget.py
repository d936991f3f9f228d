"""The hospital's privacy budget: what its patients' privacy was spent on, over all retrainings, and where it ends.

Counts that leave with noise of their own are paid from it, too: what they cost is added to what trainings cost.

Kept by the hospital and believed by nobody else. A charge is on the disk before the training that it pays for begins.
The same order asked again, from the same cases, is the same training with the same noise, and is charged once; from
other cases (a verdict came between) it is another training with other noise, and is charged again.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

from sqlalchemy import Connection, func, insert, select

from client.store.ledger import append
from client.store.site import Site
from client.store.tables import privacy_charge, statistics_release
from models.errors import BudgetExhausted, Conflict
from models.privacy import Mechanism, epsilon

Unit = Literal["patient", "site"]


@dataclass(frozen=True, slots=True)
class Charge:
    """What one training cost.

    Attributes:
        order: SHA-256 of the order, as it crossed the border.
        occasion: keyed digest of what it was trained from; empty where the noise is not the hospital's.
        unit: whom it protects.
        at: seconds since the epoch.
    """

    order: str
    occasion: str
    retraining: str
    round: int
    unit: Unit
    mechanism: Mechanism
    at: float = 0.0

    @property
    def what(self) -> tuple[str, int, Unit, Mechanism]:
        """All but which order it was for, and when."""
        return self.retraining, self.round, self.unit, self.mechanism


@dataclass(frozen=True, slots=True)
class Account:
    """How much of the budget is gone.

    Attributes:
        spent: epsilon, at `delta`.
        told: of what was spent, on counts with noise, by the digest of the version that they are of.
        cap: epsilon that may be spent in all; 0: no private training is agreed to here.
    """

    spent: float
    cap: float
    delta: float
    charges: tuple[Charge, ...]
    told: Mapping[str, float]


def account(site: Site) -> Account:
    """What was spent here so far."""
    charges, limits, counted = paid(site), site.config.privacy, told(site)
    spent = epsilon([one.mechanism for one in charges], limits.delta) + sum(counted.values())
    return Account(spent, limits.epsilon, limits.delta, charges, counted)


def told(site: Site) -> dict[str, float]:
    """What counts with noise have cost, by version: no patient is in two releases of one: the largest is all."""
    table = statistics_release.c
    query = (
        select(table.version_digest, func.max(table.epsilon))
        .where(table.epsilon > 0, table.state != "declined")
        .group_by(table.version_digest)
    )
    with site.database.read() as connection:
        return {digest: float(most) for digest, most in connection.execute(query)}


def require(site: Site, digest: str, counts: float) -> None:
    """Refuse to tell counts with noise that cost more than is left.

    Args:
        digest: of the version that they are of.
        counts: epsilon of the noise.

    Raises:
        BudgetExhausted: as said.
    """
    found = account(site)
    spent = found.spent + max(0.0, counts - found.told.get(digest, 0.0))
    if spent > found.cap:
        raise BudgetExhausted(
            f"counts with this noise would bring what was spent to epsilon {spent:.2f}; privacy.epsilon in site.yaml"
            f" allows {found.cap:g}"
        )


def paid(site: Site) -> tuple[Charge, ...]:
    """Every charge, oldest first."""
    with site.database.read() as connection:
        return tuple(_charges(connection))


def after(site: Site, retraining: str, whole: Mechanism) -> float:
    """Epsilon that will be spent here once a whole retraining is over; what it has cost already is in that.

    Args:
        whole: all of its rounds.
    """
    others = [one.mechanism for one in paid(site) if one.retraining != retraining]
    return epsilon([*others, whole], site.config.privacy.delta) + sum(told(site).values())


def charge(site: Site, new: Charge) -> None:
    """Pay for a training before it begins; what was paid for already is not paid again.

    Raises:
        BudgetExhausted: it would cost more than is left, and nothing was charged.
        Conflict: this order was charged for another training.
    """
    limits = site.config.privacy
    while True:
        charges = list(paid(site))
        before = next((one for one in charges if (one.order, one.occasion) == (new.order, new.occasion)), None)
        if before is not None:
            if before.what != new.what:
                raise Conflict("this order was charged for another training")
            return
        # a second of arithmetic, during which no study shall wait for the database
        spent = epsilon([*(one.mechanism for one in charges), new.mechanism], limits.delta) + sum(told(site).values())
        if spent > limits.epsilon:
            raise BudgetExhausted(
                f"this training would bring what was spent to epsilon {spent:.2f} at delta {limits.delta:g};"
                f" privacy.epsilon in site.yaml allows {limits.epsilon:g}"
            )
        with site.database.write() as connection:
            if list(_charges(connection)) != charges:
                continue  # somebody paid meanwhile: what is left is another sum
            _enter(connection, new, spent, limits.delta)
            return


def _enter(connection: Connection, new: Charge, spent: float, delta: float) -> None:
    facts = {"noise": new.mechanism.noise, "share": new.mechanism.share, "steps": new.mechanism.steps}
    named = {"retraining": new.retraining, "round": new.round, "unit": new.unit}
    connection.execute(
        insert(privacy_charge).values(order_sha256=new.order, occasion=new.occasion, at=time.time(), **named, **facts)
    )
    told = {**named, "order": new.order, **facts, "epsilon": round(spent, 6), "delta": delta}
    append(connection, "privacy.spent", told)


def _charges(connection: Connection) -> list[Charge]:
    rows = connection.execute(
        select(privacy_charge).order_by(privacy_charge.c.at, privacy_charge.c.order_sha256, privacy_charge.c.occasion)
    )
    return [
        Charge(
            row.order_sha256,
            row.occasion,
            row.retraining,
            row.round,
            cast(Unit, row.unit),
            Mechanism(row.noise, row.share, row.steps),
            row.at,
        )
        for row in rows
    ]
