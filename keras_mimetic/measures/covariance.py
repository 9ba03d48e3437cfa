"""The structure of mimetic depthwise convolutions, measured: the covariance of filters."""

import functools
import math

import numpy as np

from keras_mimetic.structures.depthwise import covariance, distances, sigma_at_depth

NAN = float("nan")


def empirical_covariance(filters: np.ndarray) -> np.ndarray:
    """Covariance of the pixels of a layer's filters, about their mean filter.

    Args:
        filters: Of shape `(*kernel_size, count)`, with 2 filters or more.

    Returns:
        float64 array of shape (n, n), n the number of pixels, in C order.
    """
    return np.atleast_2d(np.cov(filters.reshape(-1, filters.shape[-1]).astype(np.float64)))


def smooth_covariance(kernel_size: tuple[int, ...], sigma: float) -> np.ndarray:
    """exp(-|i - j|^2 / (2 sigma)): neighbouring pixels are alike, wherever they are."""
    _, apart = distances(kernel_size)
    return np.exp(-apart / (2 * sigma))


def fit_sigma(
    measured: np.ndarray, kernel_size: tuple[int, ...], *, centred: bool = True
) -> tuple[float, float]:
    """The closed form (`structures.depthwise.covariance`) nearest to a covariance.

    Nearest in the Frobenius norm, at the best scale.

    Args:
        measured: Covariance of shape (n, n).
        kernel_size: Pixels along each axis of space, n together.
        centred: `False` for the form without a centre, exp(-|i - j|^2 / (2 sigma)):
            filters that are smooth and no more.

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
    # Forms of large filters are large, and slow to compute: the coarse grid alone.
    step = 1 if math.prod(kernel_size) <= _LARGEST_FINE else _STEP
    alike: dict[int, float] = {}

    def likeness(point: int) -> float:
        """Cosine of the angle between the form of this grid point and the covariance."""
        if point not in alike:
            alike[point] = float(_form(kernel_size, point, centred) @ unit)
        return alike[point]

    # There may be several maxima: the best of a coarse grid, then the finer one around it.
    coarse = max(range(0, _POINTS, _STEP), key=likeness)
    around = range(max(0, coarse - _STEP), min(_POINTS, coarse + _STEP + 1), step)
    best = max(around, key=likeness)
    # And the top of the parabola through that and its neighbours.
    offset, top = 0.0, likeness(best)
    if 0 < best < _POINTS - 1:
        before, after = likeness(best - step), likeness(best + step)
        curvature = before - 2 * top + after
        if curvature < 0:
            offset = (before - after) / (2 * curvature)
            top -= (before - after) * offset / 4
    return _sigma(kernel_size, best + step * offset), min(max(0.0, top), 1.0) ** 2


# sigmas that are tried: evenly spaced logarithms, at first every so many.
_POINTS, _STEP = 97, 4
# Pixels of the largest filter for which all of them are.
_LARGEST_FINE = 256


def _sigma(kernel_size: tuple[int, ...], point: float) -> float:
    smallest, largest = math.log(0.01), math.log(max(kernel_size) ** 2)
    return math.exp(smallest + (largest - smallest) * point / (_POINTS - 1))


@functools.lru_cache(maxsize=4 * _POINTS)
def _form(kernel_size: tuple[int, ...], point: int, centred: bool) -> np.ndarray:
    """The form at a grid point, as a vector of norm 1."""
    make = covariance if centred else smooth_covariance
    form = make(kernel_size, _sigma(kernel_size, point)).ravel()
    return form / np.linalg.norm(form)


def forget_forms() -> None:
    """Frees what `fit_sigma` keeps from one fit to the next."""
    _form.cache_clear()


def fit_over_depth(depths: list[float], sigmas: list[float]) -> dict[str, float]:
    """sigma_0, velocity and acceleration of `sigma_at_depth` from some layers' sigmas.

    By least squares: a constant for one depth, a line for two. Where that curve
    would leave the range from half the smallest sigma to twice the largest
    somewhere between 0 and 1, the nearest one whose Bernstein coefficients are in
    it, and so the whole curve.

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
    low, high = min(sigmas) / 2, 2 * max(sigmas)
    curve = [sigma_at_depth(place, *found) for place in np.linspace(0, 1, 101)]
    if min(curve) < low or max(curve) > high:
        bernstein = np.stack([(1 - x) ** 2, 2 * x * (1 - x), x * x], axis=1)
        c = lsq_linear(bernstein, sigmas, bounds=(low, high)).x
        found = np.array([c[0], 2 * (c[1] - c[0]), 2 * (c[0] - 2 * c[1] + c[2])])
    return dict(zip(("sigma_0", "velocity", "acceleration"), map(float, found), strict=True))
