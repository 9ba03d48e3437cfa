"""Depthwise convolution filters, sampled from the covariance of trained ones.

The filters of a trained depthwise convolution look like samples from a normal
distribution over the pixels of a filter. Its covariance has a closed form with
one parameter, sigma, which grows with the depth of the layer in the network.
"""

import functools
import math

import numpy as np

from keras_mimetic._checks import check_number
from keras_mimetic._numerics.fans import fans, scaled_std
from keras_mimetic._numerics.random import sample

# Named scales of filters; see `MimeticDepthwise`.
GAINS = ("keras", "fan_in")

# Value, slope and curvature of sigma at the first layer. They are a reconstruction, not
# from the paper.
SIGMA_0, VELOCITY, ACCELERATION = 0.08, 0.37, 2.9


def sigma_at_depth(
    x: float,
    sigma_0: float = SIGMA_0,
    velocity: float = VELOCITY,
    acceleration: float = ACCELERATION,
) -> float:
    """Return sigma for a depth in the network: sigma_0 + velocity x + acceleration x^2 / 2.

    Examples:

    >>> sigma_at_depth(0.0), sigma_at_depth(1.0)
    (0.08, 1.9)

    Args:
        x: Depth of the layer among the depthwise convolutions of the network, from 0, the
            first, to 1, the last.
        sigma_0: Sigma of the first layer, in squared pixels.
        velocity: Slope at the first layer, in squared pixels.
        acceleration: Curvature, in squared pixels. The three defaults are a reconstruction of
            the paper's.

    Returns:
        Sigma, in squared pixels (see `MimeticDepthwise`).

    Raises:
        TypeError: If an argument is not a number.
        ValueError: If `x` is outside [0, 1].
    """
    x = check_number("x", x, low=0, high=1)
    sigma_0 = check_number("sigma_0", sigma_0)
    velocity = check_number("velocity", velocity)
    acceleration = check_number("acceleration", acceleration)
    return sigma_0 + velocity * x + acceleration * x * x / 2


def covariance(kernel_size: tuple[int, ...], sigma: float) -> np.ndarray:
    """Return the covariance (n, n) of a filter's n pixels, with trace 1; see `MimeticDepthwise`."""
    values, vectors = _spectrum(kernel_size, sigma)
    return (vectors * values) @ vectors.T


def depthwise_filters(
    kernel_size: tuple[int, ...], count: int, *, sigma: float, rms: float, seed: int
) -> np.ndarray:
    """Sample float32 filters `(*kernel_size, count)` from N(0, Sigma) of an expected rms."""
    values, vectors = _spectrum(kernel_size, sigma)
    pixels = len(values)
    # The symmetric root is unique, whatever the signs and order of eigenvectors.
    root = (vectors * np.sqrt(values)) @ vectors.T
    noise = sample("untruncated_normal", (count, pixels), seed)
    filters = (root * (rms * math.sqrt(pixels))) @ noise.T.astype(np.float64)
    return filters.astype(np.float32).reshape(*kernel_size, count)


def rms_of_gain(shape: tuple[int, ...], gain: float | str) -> float:
    """Return the rms of the entries of a kernel `(*kernel_size, channels, filters)` with a gain."""
    if gain == "keras":
        return scaled_std(*fans(shape), scale=1.0, mode="fan_avg")
    factor = 1.0 if isinstance(gain, str) else gain
    return factor / math.sqrt(math.prod(shape[:-2]))


def distances(kernel_size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the squared distances of n pixels from the center (n,) and from each other (n, n)."""
    axes = np.meshgrid(*(np.arange(size, dtype=np.float64) for size in kernel_size), indexing="ij")
    pixels = np.stack([axis.ravel() for axis in axes], axis=1)
    center = (np.array(kernel_size) - 1) / 2
    from_center = ((pixels - center) ** 2).sum(1)
    return from_center, ((pixels[:, None] - pixels[None]) ** 2).sum(2)


def _spectrum(kernel_size: tuple[int, ...], sigma: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the eigenvalues (>= 0, with sum 1) and eigenvectors of the covariance."""
    from_center, apart = distances(kernel_size)
    # The scale of M is arbitrary. Its largest entry is 1, also for filters of even size,
    # whose center is between pixels.
    m = np.exp(-(from_center - from_center.min()) / (2 * sigma))
    s = np.exp(-from_center / (2 * sigma))
    product = m[:, None] * (np.exp(-apart / (2 * sigma)) - s / 2)
    values, vectors = np.linalg.eigh((product + product.T) / 2)
    values = np.maximum(values, 0)
    return values / values.sum(), vectors


def empirical_covariance(filters: np.ndarray) -> np.ndarray:
    """Return the covariance (n, n) of n pixels over filters `(*kernel_size, count)`, count >= 2."""
    return np.atleast_2d(np.cov(filters.reshape(-1, filters.shape[-1]).astype(np.float64)))


def smooth_covariance(kernel_size: tuple[int, ...], sigma: float) -> np.ndarray:
    """Return the covariance of smooth filters without a center, exp(-|i - j|^2 / (2 sigma))."""
    _, apart = distances(kernel_size)
    return np.exp(-apart / (2 * sigma))


def fit_sigma(
    measured: np.ndarray, kernel_size: tuple[int, ...], *, centered: bool = True
) -> tuple[float, float]:
    """Return the sigma in squared pixels whose covariance is nearest to a measured one (n, n).

    The second result is the fraction of the squared Frobenius norm that the fit explains at its
    best scale. Sigma is between 0.01 and the square of the filter's largest side. Both are NaN for
    a covariance of zeros. `centered=False` fits `smooth_covariance`, the form without a center.
    """
    norm = np.linalg.norm(measured)
    if not norm:
        return math.nan, math.nan
    sigmas, forms = _forms(kernel_size, centered)
    similarities = forms @ (measured / norm).ravel()
    best = int(similarities.argmax())
    offset, top = 0.0, similarities[best]
    if 0 < best < len(sigmas) - 1:
        # Refine by the vertex of the parabola through the best point and its neighbors.
        before, after = similarities[best - 1], similarities[best + 1]
        offset = (before - after) / (2 * (before - 2 * top + after) or math.inf)
        top -= (before - after) * offset / 4
    sigma = sigmas[best] * (sigmas[1] / sigmas[0]) ** offset
    return float(sigma), float(np.clip(top, 0, 1)) ** 2


# Those of 25 x 25 pixels, the largest that are measured, take 80 MB.
@functools.lru_cache(maxsize=2)
def _forms(kernel_size: tuple[int, ...], centered: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return a grid of sigmas (points,), and their closed forms (points, n^2) of norm 1."""
    # The forms of large filters are slow to compute.
    points = 97 if math.prod(kernel_size) <= 256 else 25
    sigmas = np.geomspace(0.01, max(kernel_size) ** 2, points)
    make = covariance if centered else smooth_covariance
    forms = np.stack([make(kernel_size, sigma).ravel() for sigma in sigmas])
    return sigmas, forms / np.linalg.norm(forms, axis=1, keepdims=True)
