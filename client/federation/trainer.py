"""Local training: this hospital's validated cases, errors drawn more often, right ones replayed."""

import numpy as np

from client.federation.cases import ReusableCases, labels, tensors
from client.federation.leakage import remember
from client.store.site import Site
from client.store.versions import held
from models.errors import NotFound, TooFewCases
from models.exchange import TrainOrder, Update
from models.networks import build
from models.stats.disclosure import LEAST
from models.stats.intervals import auc
from models.stats.threshold import balanced
from models.training import fit, get_weights, scores, set_weights


def train(site: Site, order: TrainOrder) -> Update:
    """Judge the received weights on the training patients, then train from them.

    Raises:
        NotFound: the base version is not here.
        TooFewCases: the training patients have no validated case of one of the classes, or too few to be counted.
        TrainingDiverged: the loss is no longer finite.
    """
    bundle = held(site, order.base)
    if bundle is None:
        raise NotFound("the base version is not here")
    cases = ReusableCases.of(site).fold("train")
    positive = labels(cases)
    if positive.all() or not positive.any() or len(cases) < LEAST:
        raise TooFewCases(f"{len(cases)} training cases, {int(positive.sum())} of them positive")
    remember(site, order.retraining, cases)
    images = tensors(site, bundle, cases)
    wrong = np.array([not case.correct for case in cases])
    threads = site.threads
    network = build(bundle.facts.network, **bundle.facts.network_facts)
    set_weights(network, order.weights)
    received = scores(network, images, threads=threads).astype(np.float64)
    loss = fit(
        network,
        images,
        positive.astype(np.float32),
        np.where(wrong, order.hyper.error_weight, 1.0),
        order.hyper,
        seed=order.seed,
        threads=threads,
    )
    return Update(
        retraining=order.retraining,
        round=order.round,
        base=order.base,
        n_cases=len(cases),
        n_errors=int(wrong.sum()),
        train_loss=loss,
        auc_received=auc(received, positive).value,
        threshold_received=balanced(received, positive),
        weights=get_weights(network),
    )
