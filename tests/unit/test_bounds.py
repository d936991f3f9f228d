"""No update leaves that is larger than its bound, whatever the numbers are; both sides see the same."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from models.bounds import Bounds, check, distance, keep
from models.errors import BorderRefused


def _arrays(dtype: type) -> st.SearchStrategy[np.ndarray]:
    limit = 2.0**15 if dtype is np.float16 else 2.0**100
    width = 16 if dtype is np.float16 else 32
    elements = st.floats(-limit, limit, width=width, allow_subnormal=True)
    return npst.arrays(dtype, 7, elements=elements)


pairs = st.sampled_from([np.float32, np.float16]).flatmap(lambda dtype: st.tuples(_arrays(dtype), _arrays(dtype)))


@given(pairs, st.floats(1e-9, 1e32))
def test_what_is_kept_to_a_bound_lies_within_it_after_rounding(pair, norm):
    """Rounded to the nearest float32, an update scaled down to a small bound would lie beyond it again."""
    received, trained = {"w": pair[0]}, {"w": pair[1]}
    kept = keep(trained, received, Bounds(norm))
    check(kept, received, Bounds(norm))
    assert distance(kept, received) <= norm * (1 + 1e-12)
    assert kept["w"].dtype == pair[0].dtype
    if distance(trained, received) <= norm:
        assert np.array_equal(kept["w"], trained["w"])


def test_a_clipped_update_points_where_it_pointed():
    received = {"a": np.full((40, 40), 0.3, np.float32), "b": np.zeros(9, np.float32)}
    random = np.random.default_rng(0)
    trained = {name: array + random.normal(size=array.shape).astype(np.float32) for name, array in received.items()}
    kept = keep(trained, received, Bounds(0.5))
    assert distance(kept, received) == pytest.approx(0.5, rel=1e-5)
    steps = [(found[name] - received[name]).ravel() for found in (kept, trained) for name in received]
    one, other = np.concatenate(steps[:2]), np.concatenate(steps[2:])
    assert one @ other / (np.linalg.norm(one) * np.linalg.norm(other)) == pytest.approx(1, abs=1e-6)


def test_integers_and_fixed_layers_leave_as_they_came_and_nothing_else_is_believed():
    received = {"count": np.array(3, np.int64), "body.w": np.zeros(2, np.float32), "head.w": np.zeros(2, np.float32)}
    trained = {
        "count": np.array(3 + 2**40, np.int64),
        "body.w": np.ones(2, np.float32),
        "head.w": np.ones(2, np.float32),
    }
    bounds = Bounds(10.0, ("head.*",))
    kept = keep(trained, received, bounds)
    assert (int(kept["count"]), kept["body.w"].tolist(), kept["head.w"].tolist()) == (3, [0, 0], [1, 1])
    check(kept, received, bounds)
    for name in ("count", "body.w"):
        with pytest.raises(BorderRefused, match="may not change"):
            check({**kept, name: trained[name]}, received, bounds)


@pytest.mark.parametrize("value", [np.nan, np.inf, 20.0])
def test_an_update_beyond_its_bound_is_refused(value):
    received = {"w": np.zeros(4, np.float32)}
    with pytest.raises(BorderRefused):
        check({"w": np.array([value, 0, 0, 0], np.float32)}, received, Bounds(10.0))
