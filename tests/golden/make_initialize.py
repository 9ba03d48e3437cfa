"""Writes initialize.npz: what `initialize` gives the model of tests/calls/test_initialize.py.

Run as `KERAS_BACKEND=... python tests/golden/make_initialize.py`; every backend gives the same.
"""

import pathlib
import sys

import numpy as np

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "calls"), str(HERE.parent / "helpers")]

from test_initialize import DRAWN, by_place, keras_mimetic, make  # noqa: E402

if __name__ == "__main__":
    model = make()
    weights = by_place(model, keras_mimetic.initialize(model, DRAWN, seed=7))
    np.savez(HERE / "initialize.npz", **{"|".join(key): value for key, value in weights.items()})
