"""A federation in one process: the product's own training at hospitals, messages and aggregation, without a network.

Every order and every update is packed and read back as it would cross a border, so that what is counted is what would
be sent and what is learned is what would be learned.
"""

import hashlib
import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from client.federation.draws import evened
from client.federation.kept import Kept
from client.federation.trainer import Lesson, learn, taught
from configs.schema import RetrainingConfig, VersionConfig, compose
from models.bundle import Facts
from models.coding import Coding
from models.errors import ConfigurationError
from models.exchange import TrainOrder, Update, fingerprint
from models.hyperparameters import Hyperparameters
from models.intended_use import IntendedUse
from models.manifest import Row, picture, read
from models.networks import build
from models.preprocessing import Preprocessing
from models.stats.intervals import Bools, auc
from models.stats.threshold import balanced
from models.training import fit, get_weights, scores, set_weights
from scripts.benchmarks.poison import Attack, forged, spoiled
from server.aggregation import Aggregation
from server.plan import Plan
from server.privacy import protection_of

Weights = dict[str, NDArray[Any]]
Fold = Literal["train", "gate", "test"]
HOSPITALS = ("guangzhou", "nih", "shenzhen")
_DIGEST = "0" * 64


@dataclass(frozen=True, slots=True)
class Cases:
    """Images (N, 1, H, W) float32, preprocessed, and their truth (N,)."""

    images: NDArray[np.float32]
    positive: Bools


Cohort = Mapping[Fold, Cases]
"""One hospital's cases, patients apart."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What a retraining left.

    Attributes:
        weights: all layers, as the candidate would have them.
        local: by hospital, the layers that are its own.
        sent, received: bytes of all orders, and of all updates.
    """

    weights: Weights
    local: Mapping[str, Weights] = field(default_factory=lambda: dict[str, Weights]())
    sent: int = 0
    received: int = 0

    def at(self, site: str) -> Weights:
        """The weights with what is the hospital's own."""
        return {**self.weights, **self.local.get(site, {})}


def facts(overrides: Sequence[str] = ()) -> tuple[Facts, Hyperparameters]:
    """What a first version is, and how it is trained (configs/version.yaml)."""
    config = compose("version", VersionConfig, list(overrides))
    found = Facts(
        name=config.name,
        number=1,
        title=config.title,
        vendor=config.vendor,
        intended_use=IntendedUse.model_validate(config.intended_use),
        finding=Coding.model_validate(config.finding),
        threshold=0.5,
        threshold_rule="balanced",
        input_shape=(1, 224, 224),
        network=config.network["name"],
        network_facts={key: value for key, value in config.network.items() if key != "name"},
    )
    return found, Hyperparameters.model_validate(config.hyper)


def plan(sites: Sequence[str], overrides: Sequence[str] = (), seed: int = 0) -> Plan:
    """A retraining as `vigie retrain launch` would plan it (configs/retraining.yaml).

    Raises:
        ConfigurationError: values that cannot work, or updates that are only to be summed: that needs hospitals which
            mask them for each other, and here each one's is looked at.
    """
    config = compose("retraining", RetrainingConfig, ["name=bench", "base=bench@1", *overrides])
    if config.privacy.get("mechanism") == "secure_aggregation":
        raise ConfigurationError(
            "this benchmark looks at each hospital's update, and privacy=secure_aggregation shows a sum alone: leave "
            "it out; `vigie retrain simulate` sums"
        )
    return Plan(
        name="bench",
        base="bench@1",
        sites=tuple(sorted(sites)),
        quorum=len(sites),
        rounds=config.rounds,
        strategy=config.strategy,  # pyright: ignore[reportArgumentType] - pydantic chooses by its name
        compression=config.compression,  # pyright: ignore[reportArgumentType]
        privacy=protection_of(config.privacy, Hyperparameters.model_validate(config.hyper).steps, config.rounds),
        hyper=Hyperparameters.model_validate(config.hyper),
        seed=seed,
    )


def first(facts: Facts, hyper: Hyperparameters, cases: Cases, seed: int, threads: int) -> Weights:
    """Train a version from nothing on one place's cases."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build(facts.network, **facts.network_facts)
    fit(network, cases.images, cases.positive.astype(np.float32), np.ones(len(cases.positive)), hyper, seed, threads)
    return dict(get_weights(network))


def lesson(facts: Facts, base: Weights, threshold: float, cases: Cases, hyper: Hyperparameters, threads: int) -> Lesson:
    """A hospital's training cases, after the base has read them and clinicians have said the truth of all."""
    said = read_with(facts, base, cases.images, threads)
    wrong = (said >= threshold) != cases.positive
    patients = tuple(str(number) for number in range(len(wrong)))  # one study each
    return Lesson(
        cases.images,
        cases.positive,
        wrong,
        evened(np.where(wrong, hyper.error_weight, 1.0), patients),
        taught(said, np.full(len(said), threshold), ~wrong),
        patients,
    )


def retrain(
    plan: Plan,
    facts: Facts,
    base: Weights,
    lessons: Mapping[str, Lesson],
    attacks: Mapping[str, Attack] | None = None,
    threads: int = 1,
    on_round: Callable[[int, Mapping[str, Update]], None] | None = None,
) -> Trained:
    """Carry out the rounds of a plan.

    Args:
        lessons: by hospital.
        attacks: which hospitals harm, and how.
        on_round: told each round's number and updates.
    """
    attacks = attacks or {}
    aggregation = Aggregation(plan, _DIGEST, facts, base)
    taught = {site: spoiled(lessons[site], attacks[site]) if site in attacks else lessons[site] for site in plan.sites}
    kept = dict.fromkeys(plan.sites, Kept())
    sent = received = 0
    for number in range(1, plan.rounds + 1):
        updates: dict[str, Update] = {}
        for site in plan.sites:
            record = aggregation.order(number, site).to_record()
            sent += fingerprint(record).size
            order = TrainOrder.from_record(record)
            secret = f"{plan.seed} {site} {number}".encode()  # a hospital's own is drawn from its key
            update, kept[site] = learn(facts, base, taught[site], order, kept[site], threads=threads, secret=secret)
            if site in attacks:
                update = forged(update, order.received(base), attacks[site])
            record = update.to_record()
            received += fingerprint(record).size
            updates[site] = Update.from_record(record)
        aggregation.take(updates)
        if on_round is not None:
            on_round(number, updates)
    local = {site: dict(found.local) for site, found in kept.items() if found.local}
    return Trained(aggregation.weights, local, sent, received)


def read_with(facts: Facts, weights: Weights, images: NDArray[np.float32], threads: int = 1) -> NDArray[np.float64]:
    """(N,) the scores of a network with these weights."""
    network = build(facts.network, **facts.network_facts)
    set_weights(network, weights)
    return scores(network, images, threads=threads).astype(np.float64)


def performance(facts: Facts, weights: Weights, cases: Cases, threads: int = 1) -> float:
    """The area under the curve on these cases."""
    return auc(read_with(facts, weights, cases.images, threads), cases.positive).value


def threshold(facts: Facts, weights: Weights, cases: Cases, threads: int = 1) -> float:
    """The threshold that the declared rule sets on these cases."""
    return balanced(read_with(facts, weights, cases.images, threads), cases.positive)


def images(data: Path) -> tuple[list[Row], NDArray[np.float32]]:
    """The radiographs of the three hospitals, preprocessed, (N, 1, 224, 224) float32.

    Raises:
        ConfigurationError: they are not there.
    """
    rows = [row for row in read(data / "cxr" / "manifest.csv") if row.site in HOSPITALS]
    if {row.site for row in rows} != set(HOSPITALS):
        raise ConfigurationError(f"{data}: the radiographs of {', '.join(HOSPITALS)} are needed")
    prepare = Preprocessing()
    return rows, np.stack([prepare(picture(row.path)) for row in rows])


def cohorts(rows: Sequence[Row], pixels: NDArray[np.float32], seed: int, limit: int = 0) -> dict[str, Cohort]:
    """Each hospital's cases, its patients drawn into folds as a hospital draws them.

    Args:
        seed: of the key that draws them.
        limit: cases a fold, half of each kind; 0: all.
    """
    positive = np.array([row.positive for row in rows])
    site = np.array([row.site for row in rows])
    fold = np.array([_fold(row, seed) for row in rows])

    def cases(hospital: str, name: Fold) -> Cases:
        there = np.flatnonzero((site == hospital) & (fold == name))
        if limit:
            there = np.concatenate([there[positive[there] == kind][: limit // 2] for kind in (True, False)])
        return Cases(pixels[there], positive[there])

    return {
        hospital: {"train": cases(hospital, "train"), "gate": cases(hospital, "gate"), "test": cases(hospital, "test")}
        for hospital in HOSPITALS
    }


def together(cases: Sequence[Cases]) -> Cases:
    """The cases of several hospitals in one place."""
    return Cases(np.concatenate([one.images for one in cases]), np.concatenate([one.positive for one in cases]))


def _fold(row: Row, seed: int) -> Fold:
    key = hashlib.sha256(f"{row.site}:{seed}".encode()).digest()
    patient = f"{row.site.upper()}\x1f{row.patient}".encode()
    share = int(hmac.new(key, patient, hashlib.sha256).hexdigest()[:16], 16) / 16**16
    return "train" if share < 0.6 else "gate" if share < 0.8 else "test"
