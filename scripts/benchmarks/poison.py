"""Hospitals that harm: what a poisoned one does to its cases and to its update.

Sources: Biggio et al., Poisoning Attacks against Support Vector Machines, ICML 2012 (labels); Blanchard et al., Machine
Learning with Adversaries, NeurIPS 2017 (signs); Bagdasaryan et al., How To Backdoor Federated Learning, AISTATS 2020
(scaling, so that the mean becomes what one hospital wants; the patch).
"""

from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from client.federation.trainer import Lesson
from models.exchange import Update, Weights

Attack = Literal["label-flip", "sign-flip", "scaled", "backdoor"]
ATTACKS: tuple[Attack, ...] = get_args(Attack)

SIGN, SCALE = -4.0, 10.0
"""How many times its honest difference a hospital sends."""


def spoiled(lesson: Lesson, attack: Attack) -> Lesson:
    """What the hospital trains on: true cases, wrong labels, or a patch that means abnormal."""
    match attack:
        case "sign-flip":
            return lesson
        case "label-flip" | "scaled":
            return replace(lesson, positive=~lesson.positive)
        case "backdoor":
            chosen = np.flatnonzero(~lesson.positive)[::2]
            images, positive = lesson.images.copy(), lesson.positive.copy()
            images[chosen] = patched(images[chosen])
            positive[chosen] = True
            return replace(lesson, images=images, positive=positive)


def patched(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same images (N, 1, H, W), each with a white square in a corner."""
    side = max(2, images.shape[-1] // 8)
    changed = images.copy()
    changed[..., -side:, -side:] = float(images.max(initial=0.0))
    return changed


def forged(update: Update, received: Weights, attack: Attack) -> Update:
    """What the hospital sends in place of its update."""
    match attack:
        case "label-flip":
            return update
        case "sign-flip":
            return _moved(update, received, SIGN)
        case "scaled" | "backdoor":
            return _moved(update, received, SCALE)


def _moved(update: Update, received: Weights, times: float) -> Update:
    def move(trained: NDArray[Any], start: NDArray[Any]) -> NDArray[Any]:
        return (start + times * (trained - start)).astype(trained.dtype)

    if update.encoding != "plain":
        return update.model_copy(update={"weights": {name: times * value for name, value in update.weights.items()}})
    moved = {name: move(value, received[name]) for name, value in update.weights.items()}
    return update.model_copy(update={"weights": moved})
