"""What is large in a message travels beside it, and the message is the same again afterwards."""

import hashlib
import time

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st

from models import parcels
from models.errors import BorderRefused
from models.exchange import Packer, TrainOrder, Update, fingerprint
from models.hyperparameters import Hyperparameters

KEY = ec.generate_private_key(ec.SECP384R1())
PATH = parcels.PATH + "a" * 64


def record(**sizes: int) -> RecordDict:
    arrays = {name: Array(np.arange(size, dtype=np.uint8)) for name, size in sizes.items()}
    return RecordDict({"arrays": ArrayRecord(arrays), "vigie": ConfigRecord({"kind": "update"})})


def update(count: int) -> Update:
    weights = {"a": np.linspace(0, 1, count, dtype=np.float32), "b": np.arange(3)}
    return Update(retraining="r", round=1, base="a" * 64, n_cases=20, weights=weights)


@given(st.dictionaries(st.sampled_from("abc"), st.sampled_from((0, 1, 1000, parcels.LARGE - 200, parcels.LARGE))))
def test_a_message_is_the_same_again(sizes):
    sent, shelf = record(**sizes), dict[str, bytes]()

    slim = parcels.detached(sent, lambda digest, content: shelf.__setitem__(digest, bytes(content)))
    came = parcels.attached(slim, lambda digest, size: memoryview(shelf[digest])[:size])

    assert fingerprint(came) == fingerprint(sent)
    assert len(shelf) == len({size for size in sizes.values() if size == parcels.LARGE})
    assert sum(len(content) for content in slim["vigie.closed"].values()) < parcels.LARGE * (
        1 + len(sizes) - len(shelf)
    )
    assert all(hashlib.sha256(content).hexdigest() == digest for digest, content in shelf.items())


def test_an_update_is_read_from_its_parcel():
    sent, shelf = update(1 << 19), dict[str, bytes]()
    slim = parcels.detached(sent.to_record(), lambda digest, content: shelf.__setitem__(digest, bytes(content)))

    read = Update.from_record(parcels.attached(slim, lambda digest, _: memoryview(shelf[digest])))

    assert len(shelf) == 1
    assert all(np.array_equal(read.weights[name], array) for name, array in sent.weights.items())


def test_what_several_messages_have_is_packed_and_laid_down_once():
    weights, laid = update(1 << 19).weights, list[str]()
    orders = [
        TrainOrder(retraining="r", round=1, base="a" * 64, seed=seed, hyper=Hyperparameters(), weights=dict(weights))
        for seed in range(3)
    ]
    other = orders[0].model_copy(update={"weights": {name: value + 1 for name, value in weights.items()}})
    pack, slips = Packer(), dict[int, tuple[parcels.Buffer, Array]]()
    slim = [
        parcels.detached(order.to_record(pack), lambda digest, _: laid.append(digest), slips)
        for order in (*orders, other)
    ]
    alone = [parcels.detached(order.to_record(), lambda *_: None) for order in (*orders, other)]
    assert [fingerprint(one) for one in slim] == [fingerprint(one) for one in alone]
    assert len(laid) == 2


def test_weights_are_packed_as_flower_packs_an_array():
    sent = update(1000)
    (array,) = sent.to_record().array_records["weights"].values()
    parts = [np.ascontiguousarray(sent.weights[name]).view(np.uint8) for name in ("b", "a")]

    flowers = Array(np.concatenate(parts))

    assert (array.dtype, array.shape, array.stype, array.data) == (
        flowers.dtype,
        flowers.shape,
        flowers.stype,
        flowers.data,
    )


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"a" * 64,
        b"A" * 64 + b" 5",
        b"a" * 64 + b" 0",
        b"a" * 64 + b" -5",
        b"../" + b"a" * 61 + b" 5",
        b"a" * 64 + b" %d" % (parcels.LARGEST + 1),
    ],
)
def test_what_is_no_slip_is_not_fetched_and_refused(said):
    forged = update(10).to_record()
    (array,) = forged.array_records["weights"].values()
    forged["weights"] = ArrayRecord({"packed": Array("uint8", array.shape, "vigie.parcel", said)})

    came = parcels.attached(forged, lambda *_: pytest.fail("it was fetched"))

    with pytest.raises(BorderRefused):
        Update.from_record(came)


def test_a_message_cannot_have_a_hospital_fetch_without_end():
    slips = {str(number): Array("uint8", (5,), "vigie.parcel", b"%064d 5" % number) for number in range(100)}
    fetched = list[int]()

    parcels.attached(
        RecordDict({"arrays": ArrayRecord(slips)}), lambda _, size: fetched.append(size) or memoryview(b"12345")
    )

    assert 2 <= len(fetched) < 10


def test_a_request_proves_whose_it_is(monkeypatch):
    headers = parcels.credential(KEY, "PUT", PATH)
    another = parcels.credential(ec.generate_private_key(ec.SECP384R1()), "PUT", PATH)

    assert parcels.proven(headers, "PUT", PATH)
    assert parcels.proven(another, "PUT", PATH) not in (None, parcels.proven(headers, "PUT", PATH))
    assert parcels.proven(headers, "GET", PATH) is None
    assert parcels.proven(headers, "PUT", parcels.PATH + "b" * 64) is None
    assert parcels.proven({**headers, "x-vigie-key": another["x-vigie-key"]}, "PUT", PATH) is None
    assert parcels.proven({**headers, "x-vigie-at": "nan"}, "PUT", PATH) is None
    assert parcels.proven({}, "PUT", PATH) is None
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600)
    assert parcels.proven(headers, "PUT", PATH) is None, "a request that was overheard is good for ever"
