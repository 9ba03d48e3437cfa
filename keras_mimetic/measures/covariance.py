"""The structure of mimetic depthwise convolutions, measured: the covariance of filters."""

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
    # Slow to import, and seldom needed.
    from scipy.optimize import minimize_scalar

    norm = np.linalg.norm(measured)
    if not norm:
        return NAN, NAN

    def loss(log_sigma: float) -> float:
        form = covariance(kernel_size, math.exp(log_sigma))
        return -float(np.vdot(form, measured)) / float(np.linalg.norm(form) * norm)

    # The loss may have several minima: the best of a grid, then the one around it.
    grid = np.linspace(math.log(0.01), math.log(max(kernel_size) ** 2), 25)
    best = int(np.argmin([loss(point) for point in grid]))
    around = grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)]
    found = minimize_scalar(loss, bounds=around, method="bounded", options={"xatol": 1e-4})
    return math.exp(found.x), max(0.0, -found.fun) ** 2


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
