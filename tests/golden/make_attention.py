"""Writes attention.npz: products of small paired projections, by full SVDs in float64.

Run from the repository: `python tests/golden/make_attention.py`.
"""

import math
import pathlib

import numpy as np

from keras_mimetic import draws


def product(dim, rank, noise, identity, seed):
    z = draws.draw("untruncated_normal", (dim, dim), draws.subseed(seed, 0)).astype(np.float64)
    u, s, vt = np.linalg.svd(noise * z / math.sqrt(dim) + identity * np.eye(dim))
    return (u[:, :rank] * s[:rank]) @ vt[:rank]


if __name__ == "__main__":
    np.savez(
        pathlib.Path(__file__).parent / "attention.npz",
        query_key=[product(6, 3, 0.7, 0.7, draws.subseed(0, 0, head)) for head in range(2)],
        value_output=product(6, 6, 0.4, -0.4, draws.subseed(0, 1)),
    )
