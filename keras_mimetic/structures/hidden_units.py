"""Where the hidden units of an MLP start: the mean of the first matrix and the bias after it.

Both move the pre-activations of all hidden units together. The bias does it from the
first step on. A mean does it in proportion to the sum of the inputs: at once for most
inputs, and after a LayerNorm, whose output sums to zero, as soon as its `beta` learns.
"""

import math

# All three constants are ours. `benchmarks/README.md` has the rows that decided them.
# Mean after a fresh LayerNorm, in standard deviations of the matrix.
MEAN_AFTER_LAYER_NORM = -1.0
# Mean anywhere else, in standard deviations of the matrix divided by sqrt(fan_in).
SAFE_SHIFT = -0.5
# Start of the hidden bias, in standard deviations of the pre-activation.
HIDDEN_BIAS = -0.5


def safe_mean(fan_in: int) -> float:
    """Return the mean that no input can turn into a large shift, `-0.5 / sqrt(fan_in)`.

    A mean of m standard deviations shifts a pre-activation by
    `m * sqrt(fan_in) * average(x) / rms(x)` of its own spreads. The average of x is at
    most its root mean square, so this mean shifts by half a spread at most.

    Args:
        fan_in: Number of inputs of each unit, an integer >= 1.

    Returns:
        The mean in standard deviations of the matrix.
    """
    return SAFE_SHIFT / math.sqrt(fan_in)


def auto_mean(before: str, fan_in: int) -> float | None:
    """Return the default mean of an MLP's first matrix, in its standard deviations.

    Args:
        before: What the MLP reads: `"layer_norm"` (fresh, over the channels),
            `"batch_norm"`, `"normalized_activation"` (a norm after an activation) or
            `"other"`.
        fan_in: Number of inputs of each unit.

    Returns:
        The mean, or `None` to leave the matrix as it is.
    """
    if before == "normalized_activation":
        return None
    return MEAN_AFTER_LAYER_NORM if before == "layer_norm" else safe_mean(fan_in)


def auto_hidden_bias(before: str) -> float | None:
    """Return the default start of an MLP's hidden bias, in pre-activation deviations.

    Args:
        before: See `auto_mean`.

    Returns:
        The start after a LayerNorm or BatchNorm, where the scale of the input is known;
        `None` to leave the bias as it is.
    """
    return HIDDEN_BIAS if before in ("layer_norm", "batch_norm") else None


def bias_start(hidden_bias: float, std: float, fan_in: int, mean: float) -> float:
    """Return the value at which the bias after a matrix starts, absolute.

    Args:
        hidden_bias: In standard deviations of the pre-activation, for independent
            inputs of mean 0 and variance 1.
        std: Standard deviation of the matrix, absolute.
        fan_in: Number of inputs of each unit.
        mean: Mean of the matrix in standard deviations, which adds to the spread of
            the pre-activation; 0 where the inputs sum to zero.
    """
    return hidden_bias * std * math.sqrt(fan_in * (1 + mean**2))
