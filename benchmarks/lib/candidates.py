"""Structures that were tried and are not part of the package: see "candidates" in PROTOCOL.md."""

import math

import keras
import numpy as np

from common.blocks import SinCosPositions


def partial_identity(model):
    """Make the first filters of each square convolution pass its inputs on.

    Of a convolution with n inputs and at least n filters, the first n become identities and the
    others stay, as in the CIFAR-10 speed records of Jordan (2024, arXiv:2404.00498).
    """
    for layer in model.layers:
        if not isinstance(layer, keras.layers.Conv2D) or layer.kernel_size == (1, 1):
            continue
        kernel = keras.ops.convert_to_numpy(layer.kernel).copy()
        height, width, inputs, filters = kernel.shape
        if height % 2 and width % 2 and inputs <= filters and inputs > 3:
            kernel[..., :inputs] = 0
            kernel[height // 2, width // 2, :, :inputs] = np.eye(inputs)
            layer.kernel.assign(kernel)


def attend_to_neighbors(model, strength, seed):
    """Make each head of a ViT attend to one of the eight neighbors of a patch.

    After Zheng et al. (2024, arXiv:2404.01139), whose heads start as convolutions with impulses;
    here in closed form. Positions P, as they enter attention, are estimated from tokens by ridge
    regression, A = P'(P P' + N s^2)^-1, with s^2 the variance of patch embeddings. Then
    query-key products are A S A', with S the shift to a head's neighbor, factored by SVD, and added
    to the model's own weights. The logits of positions alone have a standard deviation of
    `strength`.
    """
    layer = next(x for x in model.layers if isinstance(x, SinCosPositions))
    grid = layer.output.shape[1:]
    positions = keras.ops.convert_to_numpy(layer(keras.ops.zeros((1, *grid)))).reshape(-1, grid[-1])
    # Patch embeddings have a variance of 1 after the norm of the stem; a LayerNorm follows.
    rms = math.sqrt(1 + np.square(positions).mean())
    positions = (positions - positions.mean(axis=0)) / rms
    count = len(positions)
    inverse = np.linalg.inv(positions @ positions.T + count / rms**2 * np.eye(count))
    estimate = positions.T @ inverse
    random = np.random.default_rng(seed)
    offsets = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)]
    for attention in model.layers:
        if not isinstance(attention, keras.layers.MultiHeadAttention):
            continue
        query, key = attention.query_dense.kernel, attention.key_dense.kernel
        _, heads, key_dim = query.shape
        factors = []
        for offset in random.permutation(offsets)[:heads]:
            product = estimate @ _shift(grid[0], grid[1], offset) @ estimate.T
            logits = positions @ product @ positions.T
            scale = strength * math.sqrt(key_dim) / logits.std(axis=1).mean()
            left, values, right = np.linalg.svd(scale * product)
            root = np.sqrt(values[:key_dim])
            factors.append((left[:, :key_dim] * root, right[:key_dim].T * root))
        for weight, side in ((query, 0), (key, 1)):
            weight.assign_add(np.stack([pair[side] for pair in factors], axis=1))


def _shift(rows, columns, offset):
    """Return the matrix that has a 1 where a column is the neighbor of a row."""
    matrix = np.zeros((rows, columns, rows, columns))
    for i in range(rows):
        for j in range(columns):
            row, column = i + offset[0], j + offset[1]
            if 0 <= row < rows and 0 <= column < columns:
                matrix[i, j, row, column] = 1
    return matrix.reshape(rows * columns, -1)
