"""Writes attention.npz: products of paired projections, by full SVDs in float64.

Run from the repository: `python tests/golden/make_attention.py`. Of wide products,
which share a decomposition, it has the first six rows and columns.
"""

import math
import pathlib

import numpy as np

from keras_mimetic._numerics.random import fold_in, sample

SHARED = int.from_bytes(b"mimetic", "big")


def decomposed(dim, rank, noise, identity, seed):
    z = sample("untruncated_normal", (dim, dim), seed).astype(np.float64)
    u, s, vt = np.linalg.svd(noise * z / math.sqrt(dim) + identity * np.eye(dim))
    return u[:, :rank], s[:rank], vt[:rank].T


def product(u, s, v):
    return (u * s) @ v.T


def frame(count, dim, seed):
    """Columns of the product of the reflections of normals, one by one."""
    normals = sample("untruncated_normal", (count, dim), seed).astype(np.float64)
    vectors = np.eye(dim, count)
    for i in reversed(range(count)):
        v = normals[i, i:].copy()
        sign = math.copysign(1, v[0])
        v[0] += sign * np.linalg.norm(v)
        vectors[i:] -= np.outer(2 * v / (v @ v), v @ vectors[i:])
        # So that the normals lie along the positive axis.
        vectors[:, i] *= -sign
    return vectors


def turned_head(dim, rank, noise, identity, seed):
    u, s, v = decomposed(dim, rank, noise, identity, SHARED)
    signs = np.sign(u[np.abs(u).argmax(axis=0), np.arange(rank)])
    both = np.concatenate([u * signs, v * signs], axis=1) * np.sqrt(np.tile(s, 2))
    basis, r = np.linalg.qr(both)
    basis *= np.sign(r.diagonal())
    q = frame(2 * rank, dim, fold_in(seed, 2))
    return (q @ (basis.T @ product(u, s, v) @ basis) @ q.T)[:6, :6]


def turned(dim, noise, identity, seed):
    q = frame(dim, dim, fold_in(seed, 2))
    return (q @ product(*decomposed(dim, dim, noise, identity, SHARED)) @ q.T)[:6, :6]


if __name__ == "__main__":
    heads = [fold_in(0, 0, head) for head in range(2)]
    np.savez(
        pathlib.Path(__file__).parent / "attention.npz",
        query_key_6=[product(*decomposed(6, 3, 0.7, 0.7, fold_in(seed, 0))) for seed in heads],
        value_output_6=product(*decomposed(6, 6, 0.4, -0.4, fold_in(fold_in(0, 1), 0))),
        query_key_256=[turned_head(256, 3, 0.7, 0.7, seed) for seed in heads],
        value_output_256=turned(256, 0.4, -0.4, fold_in(0, 1)),
    )
