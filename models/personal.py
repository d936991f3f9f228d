"""A hospital's own form of a version: the version's tensors, and those of some layers that the hospital has trained.

    form = version (signed by whoever released it) + local part (signed by the hospital, with the version's digest)

What identifies a form is the pair of both digests, and they stand in the facts that the hospital signs. Pure.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from models.bounds import Bounds
from models.change_plan import ChangePlan

Weights = Mapping[str, NDArray[Any]]


class Personal(BaseModel):
    """What makes a version one hospital's own form of another one.

    Attributes:
        of: digest of the version that it is a form of.
        layers: the tensors that are the hospital's own.
        part: `part_digest` of these.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    of: str = Field(pattern=r"^[0-9a-f]{64}$")
    layers: tuple[str, ...] = Field(min_length=1, max_length=4096)
    part: str = Field(pattern=r"^[0-9a-f]{64}$")


def part_digest(part: Weights) -> str:
    """SHA-256 over names, types, shapes and bytes of a local part, whatever order it is in."""
    digest = hashlib.sha256(b"vigie local part 1\n")
    for name in sorted(part):
        array = np.ascontiguousarray(part[name])
        content = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        digest.update(json.dumps([name, array.dtype.name, list(array.shape), len(content)]).encode() + b"\n")
        digest.update(content)
    return digest.hexdigest()


def problem(part: Weights, base: Weights, plan: ChangePlan) -> str:
    """Why these tensors cannot take the place of the base's; empty where they can.

    Args:
        plan: of the base: what no retraining may change is no hospital's own either.
    """
    free = Bounds(np.inf, plan.layers)
    for name, array in part.items():
        if name not in base:
            return f"there is no tensor {name}"
        if (array.shape, array.dtype) != (base[name].shape, base[name].dtype):
            return f"{name} is not of the version's shape and type"
        if not np.isfinite(array).all():
            return f"{name} is not finite"
        if not free.covers(name):
            return f"{name} may not change"
    return ""


def departure(personal: Personal, weights: Weights, base: Weights, plan: ChangePlan) -> str:
    """Why weights are not the base's with the local part that the facts name; empty where they are."""
    if weights.keys() != base.keys() or not set(personal.layers) <= weights.keys():
        return "other tensors than the version that it is a form of"
    part = {name: weights[name] for name in personal.layers}
    if part_digest(part) != personal.part:
        return "another local part than the one that was signed"
    if why := problem(part, base, plan):
        return why
    for name in weights.keys() - part.keys():
        if not _same(weights[name], base[name]):
            return f"{name} is not the version's, and is not of the local part"
    return ""


def _same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
