"""Paying for a protected training, and the secret that its noise is drawn from.

The noise of one training must never serve another: who saw both could subtract them. So it is drawn from a key of this
hospital, the order, and everything that the training looks at; the same order from the same cases has the same noise,
which is why it costs nothing again.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.federation.budget import Charge, charge
from client.store.site import Site
from models.exchange import TrainOrder, fingerprint
from models.protection import SecureAggregation, SiteLevel, Unprotected


def pay(site: Site, order: TrainOrder, arrays: Mapping[str, NDArray[Any]], patients: tuple[str, ...]) -> bytes:
    """Charge for a training before it begins.

    Args:
        arrays: all that it looks at beside the order.
        patients: whose cases these are.

    Returns:
        The secret for noise of the hospital's own; empty where it adds none.

    Raises:
        BudgetExhausted: more than is left here.
    """
    if isinstance(order.privacy, Unprotected | SecureAggregation):
        return b""
    spent, unit = order.privacy.spends(order.hyper.steps), order.privacy.unit
    asked = fingerprint(order.to_record()).sha256
    if isinstance(order.privacy, SiteLevel):
        charge(site, Charge(asked, "", order.retraining, order.round, unit, spent))
        return b""
    occasion = f"{asked} {_digest(arrays, patients)}"
    told = site.noise_key(f"occasion {occasion}").hex()
    charge(site, Charge(asked, told, order.retraining, order.round, unit, spent))
    return site.noise_key(f"noise {occasion}")


def _digest(arrays: Mapping[str, NDArray[Any]], patients: tuple[str, ...]) -> str:
    found = hashlib.sha256(json.dumps(patients).encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        found.update(json.dumps([name, array.dtype.str, list(array.shape)]).encode())
        found.update(array.reshape(-1).view(np.uint8).data)
    return found.hexdigest()
