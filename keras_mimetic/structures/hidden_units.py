"""Where the hidden units of an MLP start: a mean of the first matrix, a bias behind it.

Both do one thing: they move the pre-activations of all hidden units together. A bias
does it from the first step on, a mean behind a LayerNorm as soon as the norm's
`beta` has learned a little.
"""

import math
from typing import Any

AUTO = "auto"
# Ours, by what stands before the MLP; benchmarks/README.md has the rows that decided
# them: in standard deviations of the pre-activation,
HIDDEN_BIASES = {"layer_norm": -0.5, "batch_norm": -0.5, "other": 0.0}
# and of the matrix, where there is no bias that could start from anything.
MEANS_WITHOUT_BIAS = {"layer_norm": -1.0, "batch_norm": 0.0, "other": 0.0}


def is_auto(value: Any) -> bool:
    """Whether a strength is left to us."""
    return isinstance(value, str) and value == AUTO


def auto_strengths(
    mean: float | str, hidden_bias: float | str | None, *, before: str, has_bias: bool
) -> tuple[float, float | None]:
    """Mean and hidden bias, with `"auto"` resolved.

    Args:
        mean: In standard deviations of the matrix, or `"auto"`: 0, unless there is no
            bias and the mean can do its work, as it can behind a LayerNorm.
        hidden_bias: In standard deviations of the pre-activation, `None` for a bias
            that is left as it is, or `"auto"`.
        before: `"layer_norm"`, `"batch_norm"` or `"other"`.
        has_bias: Whether there is a bias whose start is free.

    Returns:
        `(mean, hidden_bias)`, the second `None` if it was, or if `"auto"` finds
        nothing to start or no reason to.
    """
    if isinstance(hidden_bias, str):
        hidden_bias = (HIDDEN_BIASES[before] if has_bias else 0.0) or None
    if isinstance(mean, str):
        mean = 0.0 if has_bias else MEANS_WITHOUT_BIAS[before]
    return mean, hidden_bias


def bias_start(hidden_bias: float, std: float, fan_in: int, mean: float) -> float:
    """Where the bias behind a matrix starts, absolute.

    Args:
        hidden_bias: In standard deviations of the pre-activation, for independent
            inputs of mean 0 and variance 1.
        std: Standard deviation of the matrix, absolute.
        fan_in: Its inputs.
        mean: Its mean in standard deviations, which adds to the spread of the
            pre-activation; 0 where the inputs sum to zero.
    """
    return hidden_bias * std * math.sqrt(fan_in * (1 + mean**2))
