"""A bench's trainings are kept, and known by what they were made from."""

from dataclasses import dataclass

import numpy as np
import pytest
from pydantic import BaseModel

from scripts.benchmarks.federation import Cases, Trained
from scripts.benchmarks.trained import Shelf


class Settings(BaseModel):
    rounds: int = 1


@dataclass(frozen=True)
class Harm:
    how: str


def cases(value: float = 1.0) -> Cases:
    return Cases(np.full((2, 1, 4, 4), value, np.float32), np.array([True, False]))


def test_what_was_trained_is_given_again_bit_for_bit(tmp_path):
    made = Trained(
        {"conv.weight": np.float32([[0.1, np.nextafter(np.float32(0), np.float32(1))]]), "count": np.int64(3)},
        {"alpha": {"head.bias": np.float32([2.5])}},
        sent=12,
        received=34,
    )
    made_from = (Settings(), {"alpha": cases()}, Harm("none"), None, 1, "x")
    assert Shelf(tmp_path / "kept").given(made_from, lambda: made) is made

    found = Shelf(tmp_path / "kept").given(made_from, lambda: pytest.fail("it was trained again"))

    assert (found.sent, found.received) == (12, 34)
    assert found.weights.keys() == made.weights.keys()
    assert found.local.keys() == {"alpha"}
    for name, value in {**made.weights, **made.local["alpha"]}.items():
        assert found.at("alpha")[name].tobytes() == value.tobytes()
        assert found.at("alpha")[name].dtype == value.dtype


@pytest.mark.parametrize(
    "made_from",
    [
        (Settings(rounds=2), {"alpha": cases()}, Harm("none"), 1),
        (Settings(), {"beta": cases()}, Harm("none"), 1),
        (Settings(), {"alpha": cases(2.0)}, Harm("none"), 1),
        (Settings(), {"alpha": cases()}, Harm("scaled"), 1),
        (Settings(), {"alpha": cases()}, Harm("none"), 2),
        (Settings(), {"alpha": cases()}, Harm("none"), "1"),
        (Settings(), {"alpha": cases()}, Harm("none"), None),
    ],
)
def test_another_training_is_not_taken_for_it(tmp_path, made_from):
    shelf, weights = Shelf(tmp_path), {"a": np.zeros(1, np.float32)}
    shelf.given((Settings(), {"alpha": cases()}, Harm("none"), 1), lambda: Trained(weights))
    found = shelf.given(made_from, lambda: Trained({"b": np.ones(1, np.float32)}))
    assert found.weights.keys() == {"b"}


def test_what_cannot_be_told_apart_is_refused(tmp_path):
    with pytest.raises(TypeError, match="cannot be known by a object"):
        Shelf(tmp_path).given((object(),), lambda: Trained({}))
