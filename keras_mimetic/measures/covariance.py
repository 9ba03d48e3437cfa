"""The structure of mimetic depthwise convolutions, measured: the covariance of filters."""

import functools
import math

import numpy as np

from keras_mimetic.structures.depthwise import covariance, sigma_at_depth

NAN = float("nan")


def empirical_covariance(filters: np.ndarray) -> np.ndarray:
    """Covariance of the pixels of a layer's filters, about their mean filter.

    Args:
        filters: Of shape `(*kernel_size, count)`, with 2 filters or more.

    Returns:
        float64 array of shape (n, n), n the number of pixels, in C order.
    """
    return np.atleast_2d(np.cov(filters.reshape(-1, filters.shape[-1]).astype(np.float64)))


def fit_sigma(measured: np.ndarray, kernel_size: tuple[int, ...]) -> tuple[float, float]:
    """The closed form (`structures.depthwise.covariance`) nearest to a covariance.

    Nearest in the Frobenius norm, at the best scale.

    Args:
        measured: Covariance of shape (n, n).
        kernel_size: Pixels along each axis of space, n together.

    Returns:
        sigma in squared pixels, between 0.01 and the square of the filter's
        largest side; and the fit's quality, the part of the covariance's squared
        Frobenius norm that it explains: 1 is a perfect fit, 0 none. NaN for a
        covariance of zeros.
    """
    norm = np.linalg.norm(measured)
    if not norm:
        return NAN, NAN
    unit = (measured / norm).ravel()
    form_at = _cached_form if math.prod(kernel_size) <= _LARGEST_CACHED else _form
    alike: dict[int, float] = {}

    def likeness(point: int) -> float:
        """Cosine of the angle between the form of this grid point and the covariance."""
        if point not in alike:
            alike[point] = float(form_at(kernel_size, point) @ unit)
        return alike[point]

    # There may be several maxima: the best of a coarse grid, then the finer one around it.
    coarse = max(range(0, _POINTS, _STEP), key=likeness)
    around = range(max(0, coarse - _STEP), min(_POINTS, coarse + _STEP + 1))
    best = max(around, key=likeness)
    # And the top of the parabola through that and its neighbours.
    offset, top = 0.0, likeness(best)
    if 0 < best < _POINTS - 1:
        before, after = likeness(best - 1), likeness(best + 1)
        curvature = before - 2 * top + after
        if curvature < 0:
            offset = (before - after) / (2 * curvature)
            top -= (before - after) * offset / 4
    return _sigma(kernel_size, best + offset), min(max(0.0, top), 1.0) ** 2


# sigmas that are tried: evenly spaced logarithms, at first every so many.
_POINTS, _STEP = 97, 4
# Pixels of the largest filter whose forms are kept in memory.
_LARGEST_CACHED = 256


def _sigma(kernel_size: tuple[int, ...], point: float) -> float:
    smallest, largest = math.log(0.01), math.log(max(kernel_size) ** 2)
    return math.exp(smallest + (largest - smallest) * point / (_POINTS - 1))


def _form(kernel_size: tuple[int, ...], point: int) -> np.ndarray:
    """The closed form at a grid point, as a vector of norm 1."""
    form = covariance(kernel_size, _sigma(kernel_size, point)).ravel()
    return form / np.linalg.norm(form)


_cached_form = functools.lru_cache(maxsize=4 * _POINTS)(_form)


def fit_over_depth(depths: list[float], sigmas: list[float]) -> dict[str, float]:
    """sigma_0, velocity and acceleration of `sigma_at_depth` from some layers' sigmas.

    By least squares: a constant for one depth, a line for two. Where that curve
    would reach 0 between 0 and 1, the nearest one with Bernstein coefficients of
    at least half the smallest sigma, which is positive everywhere.

    Args:
        depths: Places in the network, in [0, 1].
        sigmas: sigma of each, > 0.
    """
    # Slow to import, and seldom needed.
    from scipy.optimize import lsq_linear

    x = np.asarray(depths, np.float64)
    order = min(3, len(set(depths)))
    powers = np.stack([np.ones_like(x), x, x * x / 2], axis=1)[:, :order]
    found = np.zeros(3)
    found[:order] = np.linalg.lstsq(powers, np.asarray(sigmas), rcond=None)[0]
    smallest = min(sigmas) / 2
    if min(sigma_at_depth(place, *found) for place in np.linspace(0, 1, 101)) < smallest:
        bernstein = np.stack([(1 - x) ** 2, 2 * x * (1 - x), x * x], axis=1)
        c = lsq_linear(bernstein, sigmas, bounds=(smallest, np.inf)).x
        found = np.array([c[0], 2 * (c[1] - c[0]), 2 * (c[0] - 2 * c[1] + c[2])])
    return dict(zip(("sigma_0", "velocity", "acceleration"), map(float, found), strict=True))
