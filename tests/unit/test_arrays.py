"""Named arrays in a file: read by NumPy, bit for bit, whatever they are."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from models.arrays import write

NUMBERS = st.sampled_from(["<f4", "<f2", "<i8", "|u1", "|b1", "<f8"])


@given(st.dictionaries(st.text("ab/._", min_size=1, max_size=5), arrays(NUMBERS, array_shapes(min_dims=0, min_side=0))))
def test_what_is_written_is_read_by_numpy(given_arrays):
    file = io.BytesIO()
    turned = {f"turned/{name}": value.T for name, value in given_arrays.items()}
    write(file, {**given_arrays, **turned, "said": np.array("words"), "nothing": ""})
    file.seek(0)
    with np.load(file, allow_pickle=False) as found:
        assert (str(found["said"]), str(found["nothing"])) == ("words", "")
        for name, value in {**given_arrays, **turned}.items():
            assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape)
            assert found[name].tobytes() == value.tobytes()


def test_what_would_have_to_be_trusted_is_not_written():
    with pytest.raises(ValueError, match="objects"):
        write(io.BytesIO(), {"a": np.array([{}], dtype=object)})
