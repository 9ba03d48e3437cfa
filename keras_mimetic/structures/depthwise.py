"""Depthwise convolution filters drawn from the covariance of trained ones.

The filters of a trained depthwise convolution look like draws from a normal
distribution over the pixels of a filter. Its covariance has a closed form with
one parameter, sigma, which grows with the depth of the layer in the network.
"""

import math

import numpy as np

from keras_mimetic import draws
from keras_mimetic._checks import check_number

# sigma over depth: its value, slope and curvature at the network's start. A
# reconstruction, not read in the paper.
SIGMA_0, VELOCITY, ACCELERATION = 0.08, 0.37, 2.9


def sigma_at_depth(
    x: float,
    sigma_0: float = SIGMA_0,
    velocity: float = VELOCITY,
    acceleration: float = ACCELERATION,
) -> float:
    """sigma_0 + velocity x + acceleration x^2 / 2: sigma for a place in the network.

    Args:
        x: Place of the layer among the network's depthwise convolutions, from
            0, the first, to 1, the last.
        sigma_0: sigma of the first layer, in squared pixels as all of these.
        velocity: Slope at the first layer.
        acceleration: Curvature. The defaults are a reconstruction, not known
            to be the paper's.

    Returns:
        sigma, in squared pixels (see `covariance`).

    Raises:
        TypeError: for anything but numbers.
        ValueError: for an x outside [0, 1].

    Example:

    >>> sigma_at_depth(0.0), sigma_at_depth(1.0)
    (0.08, 1.9)
    """
    x = check_number("x", x, "a number in [0, 1]")
    sigma_0 = check_number("sigma_0", sigma_0)
    velocity = check_number("velocity", velocity)
    acceleration = check_number("acceleration", acceleration)
    if not 0 <= x <= 1:
        raise ValueError(f"Argument `x` must be a number in [0, 1]. Received: x={x}")
    return sigma_0 + velocity * x + acceleration * x * x / 2


def covariance(kernel_size: tuple[int, ...], sigma: float) -> np.ndarray:
    """Covariance of a filter's pixels, of trace 1.

    For pixels i and j of the filter, c its centre and
    g(i, j) = exp(-|i - j|^2 / (2 sigma)), distances in pixels:

        C_ij = g(i, j),  S_ij = g(j, c),  M_ij = g(i, c),
        Sigma = sym(M * (C - S / 2))

    with * element by element, sym(X) = (X + X^T) / 2, and then the nearest
    positive semi-definite matrix, scaled to trace 1. So the filter is large and
    smooth about its centre.

    Args:
        kernel_size: Pixels along each axis of space.
        sigma: Spread in squared pixels, > 0: a variance, filters reach some
            sqrt(sigma) pixels.

    Returns:
        float64 array of shape (n, n), n the number of pixels, in C order.

    Reference:

    - Trockman, Willmott and Kolter, 2023, "Understanding the Covariance
      Structure of Convolutional Filters" (arXiv:2210.03651), from which this is
      reconstructed.
    """
    values, vectors = _spectrum(kernel_size, sigma)
    return (vectors * values) @ vectors.T


def depthwise_filters(
    kernel_size: tuple[int, ...], count: int, *, sigma: float, rms: float, seed: int
) -> np.ndarray:
    """Draws `count` independent filters from N(0, Sigma).

    Args:
        kernel_size: Pixels along each axis of space.
        count: Number of filters.
        sigma: See `covariance`.
        rms: Root of the mean square of all the filters' entries, in
            expectation; absolute.
        seed: Integer >= 0.

    Returns:
        float32 array of shape `(*kernel_size, count)`.
    """
    values, vectors = _spectrum(kernel_size, sigma)
    pixels = len(values)
    # The symmetric root is unique, whatever the signs and order of eigenvectors.
    root = (vectors * np.sqrt(values)) @ vectors.T
    noise = draws.draw("untruncated_normal", (count, pixels), seed)
    # What float32 cannot hold becomes inf, for the caller to see.
    with np.errstate(over="ignore", under="ignore"):
        filters = (root * (rms * math.sqrt(pixels))) @ noise.T.astype(np.float64)
        return filters.astype(np.float32).reshape(*kernel_size, count)


def same_norm(filters: np.ndarray, seed: int) -> np.ndarray:
    """Structureless filters of the same norm from the same draws: the control."""
    *kernel_size, count = filters.shape
    noise = draws.draw("untruncated_normal", (count, math.prod(kernel_size)), seed)
    noise *= np.float32(np.linalg.norm(filters) / np.linalg.norm(noise))
    return np.ascontiguousarray(noise.T).reshape(filters.shape)


def distances(kernel_size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances of a filter's pixels: from its centre (n,), and between them (n, n)."""
    axes = np.meshgrid(*(np.arange(size, dtype=np.float64) for size in kernel_size), indexing="ij")
    pixels = np.stack([axis.ravel() for axis in axes], axis=1)
    centre = (np.array(kernel_size) - 1) / 2
    from_centre = ((pixels - centre) ** 2).sum(1)
    return from_centre, ((pixels[:, None] - pixels[None]) ** 2).sum(2)


def _spectrum(kernel_size: tuple[int, ...], sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, >= 0 and of sum 1, and eigenvectors of the covariance."""
    from_centre, apart = distances(kernel_size)
    # M enters as a factor and its scale is lost, so let its largest entry be 1:
    # the centre of a filter of even size is no pixel.
    with np.errstate(over="ignore", under="ignore"):  # of a sigma next to 0
        m = np.exp(-(from_centre - from_centre.min()) / (2 * sigma))
        s = np.exp(-from_centre / (2 * sigma))
        product = m[:, None] * (np.exp(-apart / (2 * sigma)) - s / 2)
    values, vectors = np.linalg.eigh((product + product.T) / 2)
    values = np.maximum(values, 0)
    return values / values.sum(), vectors
