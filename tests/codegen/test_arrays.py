"""Where the arrays lie that a library is given."""

from itertools import pairwise

import numpy as np

from chipfit.codegen.arrays import ALIGNMENT, together
from chipfit.codegen.packing import pack


def test_packed_weights_lie_in_one_piece_of_memory_each_where_vectors_start() -> None:
    weights = {f"w{rows}": np.arange(rows * 7, dtype=np.float32).reshape(rows, 7) for rows in (1, 5, 40)}
    packing = {"kind": "panels", "params": {"lanes": 4, "nr": 8, "transposed": True}}
    entries = [
        {"source": name, "source_shape": list(w.shape), "dtype": "float32", "packing": packing}
        for name, w in weights.items()
    ]
    plain = np.ones(3, np.float32)
    entries.append({"source": "plain", "source_shape": [3], "dtype": "float32", "packing": None})
    *packed, last = together(entries, {**weights, "plain": plain}, {})
    assert last is plain
    for array, weight in zip(packed, weights.values(), strict=True):
        assert array.ctypes.data % ALIGNMENT == 0
        np.testing.assert_array_equal(array, pack("panels", packing["params"], weight))
    for one, following in pairwise(packed):
        assert 0 <= following.ctypes.data - (one.ctypes.data + one.nbytes) < ALIGNMENT
