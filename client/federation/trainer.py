"""Local training: this hospital's validated cases, errors drawn more often, right ones replayed."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from client.federation.cases import ReusableCases, labels, objecting, tensors
from client.federation.draws import draws
from client.federation.kept import Kept, Memory
from client.federation.leakage import remember
from client.federation.limits import bounds_of
from client.federation.private import pay
from client.store.site import Site
from client.store.versions import held
from models import compression
from models.bounds import Bounds, distance, keep
from models.bundle import Facts
from models.control import ControlVariate
from models.errors import NotFound, TooFewCases
from models.exchange import TrainOrder, Update, is_in, withheld
from models.networks import build_for
from models.private_training import fit_privately
from models.protection import PatientLevel, SecureAggregation, Unprotected
from models.stats.disclosure import LEAST
from models.stats.intervals import Bools, Floats, auc
from models.stats.threshold import balanced
from models.training import fit, get_weights, scores, set_weights


@dataclass(frozen=True, slots=True)
class Lesson:
    """What there is to learn from at one hospital.

    Attributes:
        images: (N, 1, H, W) float32, preprocessed.
        positive: (N,) the truth.
        wrong: (N,) whether the version erred whose result the clinician had before them.
        weights: (N,) how often to draw each case, relative to the others; 0 leaves it out.
        taught: (N,) what that version said where it was right, 0..1 with 0.5 at its threshold; NaN where it erred.
        patients: (N,) whose each is, where an update is to be protected.
    """

    images: NDArray[np.float32]
    positive: Bools
    wrong: Bools
    weights: Floats
    taught: Floats
    patients: tuple[str, ...] = ()

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """All there is, by name, but whose it is."""
        return {
            "images": self.images,
            "positive": self.positive,
            "wrong": self.wrong,
            "weights": self.weights,
            "taught": self.taught,
        }


def train(site: Site, order: TrainOrder) -> Update:
    """Judge the received weights on the training patients, then train from them.

    Raises:
        NotFound: the base version is not here.
        TooFewCases: there are too few training patients with a validated case, or none of one of the classes; or the
            order draws too few.
        BudgetExhausted: it would cost more of the patients' privacy than this hospital allows.
        TrainingDiverged: the loss is no longer finite.
    """
    bundle = held(site, order.base)
    if bundle is None:
        raise NotFound("the base version is not here")
    objected = objecting(site)  # before the cases are looked at: who objects meanwhile is not taken for left out
    cases = ReusableCases.of(site, bundle.facts).fold("train")
    positive = labels(cases)
    drawn = draws(cases, order.hyper)
    _require_both(positive[drawn > 0])
    most = order.hyper.steps * order.hyper.batch_size
    if isinstance(order.privacy, Unprotected) and most < LEAST and not order.hyper.rehearses:
        # of one step on two cases, their pictures can be told (scripts/benchmarks/inversion.py)
        raise TooFewCases(f"{most} cases drawn in all: fewer than {LEAST} would show a patient")
    if not order.hyper.rehearses:
        remember(site, order.retraining, cases)
    lesson = Lesson(
        tensors(site, bundle, cases),
        positive,
        np.array([not case.correct for case in cases]),
        drawn,
        taught(
            np.array([case.score for case in cases]),
            np.array([case.threshold for case in cases]),
            np.array([case.correct for case in cases]),
        ),
        tuple(case.patient_key for case in cases),
    )
    memory = Memory(site.retrainings, order.retraining)
    kept = memory.before(order.round, order.base, objected)
    seen = {**lesson.arrays, **{f"local/{name}": value for name, value in kept.local.items()}}
    secret = pay(site, order, seen, lesson.patients)
    # an order that brings weights, and not what is to be added to the base's, needs of the base what else there is
    base = bundle.read_weights(but=order.weights if order.encoding == "plain" else ())
    within = bounds_of(site, order)
    update, kept = learn(bundle.facts, base, lesson, order, kept, within, site.threads, secret)
    memory.keep(order.round, replace(kept, objecting=objected))
    return update


def learn(
    facts: Facts,
    base: Mapping[str, NDArray[Any]],
    lesson: Lesson,
    order: TrainOrder,
    kept: Kept,
    within: Bounds | None = None,
    threads: int = 1,
    secret: bytes = b"",
) -> tuple[Update, Kept]:
    """One round at one hospital, without its store: the same arguments give the same bits.

    Of a rehearsal the received weights come back as they are, with what was found of them.

    Args:
        facts, base: of the version that the order starts from; weights that the order brings need not be there.
        kept: what the rounds before left here.
        within: what the update may change; by default what the order allows.
        secret: that the noise of a training that protects each patient is drawn from.

    Returns:
        The update, and what this round leaves.

    Raises:
        TooFewCases: there is nothing to draw of one of the classes.
        TrainingDiverged: the loss is no longer finite.
    """
    there = lesson.weights > 0
    _require_both(lesson.positive[there])
    received = dict(order.received(base))
    own = {name: kept.local.get(name, base[name]) for name in base if _among(name, order.local)}
    network = build_for(facts.network, **facts.network_facts)
    set_weights(network, {**base, **own, **received})
    judged = scores(network, lesson.images, threads=threads).astype(np.float64)
    variate = ControlVariate(order.control) if order.controls else None
    frozen = [name for name in base if _among(name, order.frozen)]
    if order.hyper.rehearses:
        loss, trained = None, {**base, **own, **received}
    else:
        loss = _fit(network, lesson, order, frozen, variate, threads, secret)
        trained = get_weights(network)
    within = within or order.bounds
    sent, left = _sent({name: trained[name] for name in received}, received, order, kept, within)
    update = Update(
        retraining=order.retraining,
        round=order.round,
        base=order.base,
        n_cases=int(there.sum()),
        n_errors=int((lesson.wrong & there).sum()),
        train_loss=loss,
        auc_received=auc(judged[there], lesson.positive[there]).value,
        threshold_received=balanced(judged[there], lesson.positive[there]),
        loss_received=_loss(judged[there], lesson.positive[there]),
        encoding=order.reply,
        weights=sent,
        control=_control(variate.mean(received), order, within) if variate else None,
    )
    # one that is to be summed says nothing of itself: what it says of the cases stays here until it is masked
    if not isinstance(order.privacy, Unprotected | SecureAggregation):
        update = withheld(update)
        if update.n_cases < LEAST:
            raise TooFewCases(f"fewer than {2 * LEAST} training cases are too few to be told by a power of two")
    return update, Kept(order.base, left, {name: trained[name] for name in own})


def taught(scores: Floats, thresholds: Floats, correct: Bools) -> Floats:
    """(N,) what the served version said where it was right, NaN where it erred.

    Its score is taken relative to the threshold it was called by: else a case that was rightly called positive at 0.3
    would be drawn towards negative.
    """
    said, called = scores.clip(1e-6, 1 - 1e-6), thresholds.clip(1e-6, 1 - 1e-6)
    odds = said / (1 - said) * (1 - called) / called
    return np.where(correct, odds / (1 + odds), np.nan)


def _sent(
    trained: dict[str, NDArray[Any]], received: dict[str, NDArray[Any]], order: TrainOrder, kept: Kept, within: Bounds
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
    """The update's weights as ordered, kept to the bounds, and what rounding leaves behind.

    What the bounds cut off is not left behind: it would come back in the next round, for ever.
    """
    if order.reply == "plain":
        return keep(trained, received, within), {}
    nothing = {name: np.zeros_like(array) for name, array in received.items()}
    meant = keep(compression.added(compression.difference(trained, received), kept.left), nothing, within)
    while True:
        draw = np.random.default_rng(order.seed) if order.stochastic else None
        sent, left = compression.with_feedback(meant, {}, order.reply, draw)
        if (found := distance(sent, nothing)) <= within.norm:
            return sent, left
        # rounded to the nearest, the sum of many can be a little longer than what was meant
        meant = {name: np.asarray(array * (0.999 * within.norm / found), array.dtype) for name, array in meant.items()}


def _control(mean: dict[str, NDArray[Any]], order: TrainOrder, within: Bounds) -> dict[str, NDArray[Any]]:
    """A control variate as ordered, kept to the bounds of an update: it says of the cases what a step would."""
    nothing = {name: np.zeros_like(array) for name, array in mean.items()}
    meant = keep(mean, nothing, within)
    while (found := distance(sent := compression.rounded(meant, order.reply), nothing)) > within.norm:
        meant = {name: np.asarray(array * (0.999 * within.norm / found), array.dtype) for name, array in meant.items()}
    return sent


def _fit(
    network: nn.Module,
    lesson: Lesson,
    order: TrainOrder,
    frozen: list[str],
    variate: ControlVariate | None,
    threads: int,
    secret: bytes,
) -> float | None:
    """Train in place as ordered; the loss, where that may be known."""
    targets = lesson.positive.astype(np.float32)
    if not isinstance(order.privacy, PatientLevel):
        return fit(
            network,
            lesson.images,
            targets,
            lesson.weights,
            order.hyper,
            seed=order.seed,
            threads=threads,
            frozen=frozen,
            taught=lesson.taught,
            variate=variate,
        )
    there = np.flatnonzero(lesson.weights > 0)
    fit_privately(
        network,
        lesson.images[there],
        targets[there],
        lesson.weights[there],
        [lesson.patients[number] for number in there] if lesson.patients else (),
        order.hyper,
        order.privacy,
        secret=secret,
        threads=threads,
        frozen=frozen,
        taught=lesson.taught[there],
    )
    return None


def _loss(judged: Floats, positive: Bools) -> float:
    """The mean negative log-likelihood of the received weights."""
    right = np.where(positive, judged, 1 - judged).clip(1e-7, 1)
    return float(-np.log(right).mean())


def _among(name: str, layers: tuple[str, ...]) -> bool:
    return any(is_in(name, layer) for layer in layers)


def _require_both(positive: Bools) -> None:
    if positive.all() or not positive.any():
        raise TooFewCases(f"{len(positive)} training cases, {int(positive.sum())} of them positive")
