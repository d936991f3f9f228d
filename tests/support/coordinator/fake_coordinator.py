"""What the tests' retrainings do; the first word of a retraining's name says which."""

import json
import time

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, RecordDict

from models import parcels
from models.exchange import Offer, Release, TrainOrder, fingerprint
from models.hyperparameters import Hyperparameters
from server.messaging import Failure

BASE = "b" * 64
VERSION = "c" * 64
WEIGHTS = {
    "features.0.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 4) / 7,
    "classifier.bias": np.array([0.5], np.float32),
    "features.1.count": np.array(3, np.int64),
}


def conduct(exchange, folder, name):
    waited = exchange.wait_for(exchange.registered(), 60)
    report = {"sites": waited, "exchanges": []}
    {
        "round": one_round,
        "hostile": hostile,
        "empty": empty,
        "train": train,
        "large": large,
        "late": late,
        "small": small,
        "several": several,
        "summed": summed,
    }[name.split("-")[0]](exchange, name, report)
    path = folder / "retrainings" / name / "report.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report))


def order(name, round_number=1, weights=None):
    return TrainOrder(
        retraining=name, round=round_number, base=BASE, hyper=Hyperparameters(), weights=weights or WEIGHTS
    )


def ask(exchange, message, report, timeout=60.0, names=None):
    names = names or list(exchange.sites())
    sent = fingerprint(message.to_record())
    answered = exchange.send_and_receive(dict.fromkeys(names, message), timeout)
    results = {}
    for site, result in answered.results.items():
        if isinstance(result, Failure):
            results[site] = {"failure": result.code}
        else:
            results[site] = {"kind": result.kind, "sha256": fingerprint(result.to_record()).sha256}
            if result.kind == "update":
                results[site]["sum"] = float(sum(array.sum() for array in result.weights.values()))
    report["exchanges"].append({"sent": sent.sha256, "seconds": answered.seconds, "results": results})
    return answered


def one_round(exchange, name, report):
    ask(exchange, order(name), report)
    bundle = np.random.default_rng(0).bytes(8 * 2**20)
    ask(exchange, Offer(retraining=name, digest=VERSION, parent=BASE, bundle=bundle), report)
    ask(exchange, Release(retraining=name, digest=VERSION, released=True), report)


def train(exchange, name, report):
    ask(exchange, order(name), report)


def large(exchange, name, report):
    """A round on weights the size of a DenseNet121's, and all that follows a round."""
    # no two parts alike: Flower sends what it has sent before no second time
    values = np.random.default_rng(0).normal(size=(600, 11_600)).astype(np.float32)
    weights = {f"layer.{number:03}": array for number, array in enumerate(values)}
    ask(exchange, order(name, 1, weights), report)
    ask(exchange, Offer(retraining=name, digest=VERSION, parent=BASE, bundle=b"a version"), report)
    ask(exchange, Release(retraining=name, digest=VERSION, released=True), report)


def several(exchange, name, report):
    """As many rounds as the end of the name says."""
    for number in range(int(name.split("-")[-1])):
        ask(exchange, order(name, number), report)


def summed(exchange, name, report):
    import summed_rounds

    summed_rounds.conduct(exchange, exchange._folder, name, report)


def late(exchange, name, report):
    ask(exchange, order(name), report, timeout=8.0)


def small(exchange, name, report):
    for number in range(10):
        ask(exchange, order(name, number), report)


def empty(exchange, name, report):
    """Rounds with nothing to compute, on weights the size of a DenseNet121's: 7 million in 600 tensors."""
    weights = {f"layer.{number:03}": np.full(11_600, 0.1, np.float32) for number in range(600)}
    for number in range(5):
        ask(exchange, order(name, number, weights), report)


def hostile(exchange, name, report):
    """Messages that no honest coordinator sends; the reply is kept as text, whatever is in it."""
    good = order(name).to_record()

    def changed(**fields):
        record = RecordDict({"weights": good["weights"]})
        record["vigie"] = ConfigRecord({**dict(good["vigie"]), **fields})
        return record

    infinite = dict(WEIGHTS) | {"classifier.bias": np.array([np.inf], np.float32)}
    extra = dict(WEIGHTS) | {"patients": np.zeros(3, np.float32)}
    reshaped = dict(WEIGHTS) | {"features.0.weight": np.zeros((4, 3, 2), np.float32)}
    metadata = changed()
    metadata["more"] = ConfigRecord({"x": 1})
    pickled = changed()
    pickled["weights"] = ArrayRecord({"packed": Array("uint8", (108,), "pickle", b"cposix\nsystem\n(S'id'\ntR.")})
    closed = parcels.detached(changed(query="select * from study"), print)
    lost = changed()
    lost["weights"] = ArrayRecord({"packed": Array("uint8", (108,), "vigie.parcel", b"0" * 64 + b" 108")})
    cases = {
        "unknown-kind": (changed(kind="dump"), MessageType.QUERY),
        "reply-kind": (changed(kind="update"), MessageType.QUERY),
        "not-finite": (order(name, weights=infinite).to_record(), MessageType.QUERY),
        "extra-tensor": (order(name, weights=extra).to_record(), MessageType.QUERY),
        "reshaped": (order(name, weights=reshaped).to_record(), MessageType.QUERY),
        "extra-field": (changed(query="select * from study"), MessageType.QUERY),
        "extra-record": (metadata, MessageType.QUERY),
        "path-as-name": (changed(retraining="../../etc"), MessageType.QUERY),
        "pickle": (pickled, MessageType.QUERY),
        "nothing": (RecordDict(), MessageType.QUERY),
        "closed-rubbish": (
            RecordDict({"vigie.closed": ConfigRecord({"vigie.closed": b"\xff" * 64})}),
            MessageType.QUERY,
        ),
        "closed-extra-field": (closed, MessageType.QUERY),
        "closed-twice": (parcels.detached(closed, print), MessageType.QUERY),
        "slip-to-nowhere": (lost, MessageType.QUERY),
        "other-category": (good, MessageType.TRAIN),
        "other-action": (good, "query.dump"),
    }
    node = next(iter(exchange.sites().values()))
    for case, (record, kind) in cases.items():
        sent = Message(record, dst_node_id=node, message_type=kind, ttl=60)
        (identifier,) = exchange._grid.push_messages([sent])
        replies, deadline = [], time.monotonic() + 30
        while not replies and time.monotonic() < deadline:
            replies = list(exchange._grid.pull_messages([identifier]))
            time.sleep(0.05)
        report["exchanges"].append({"case": case, "reply": [as_text(reply) for reply in replies]})


def as_text(reply):
    if reply.has_error():
        return f"error {reply.error.code} {reply.error.reason}"
    content = parcels.opened(reply.content)
    records = {key: dict(record) for key, record in content.config_records.items()}
    return json.dumps({"config": records, "arrays": sorted(content.array_records)})
