"""Fans of a weight, and the standard deviation that follows from them."""

import math

MODES = ("fan_in", "fan_out", "fan_avg")


def fans(
    shape: tuple[int, ...],
    input_axes: tuple[int, ...] | None = None,
    output_axes: tuple[int, ...] | None = None,
) -> tuple[int, int]:
    """Return the number of inputs per output and of outputs per input, counted as in Keras.

    A matrix is `(inputs, outputs)`, and an array of higher rank is a convolution kernel
    `(*window, inputs, outputs)`. `EinsumDense` kernels need `input_axes`, which are contracted
    with the input, and `output_axes`, which remain.
    """
    if input_axes is not None and output_axes is not None:
        rank, both = len(shape), (*input_axes, *output_axes)
        known = {axis % rank for axis in both if -rank <= axis < rank}
        if len(known) < len(both):
            raise ValueError(
                "Arguments `input_axes` and `output_axes` must name axes of the weight, whose "
                f"shape is {shape}, each at most once. "
                f"Received: input_axes={input_axes}, output_axes={output_axes}"
            )
        return (
            math.prod(shape[axis] for axis in input_axes),
            math.prod(shape[axis] for axis in output_axes),
        )
    if not shape:
        return 1, 1
    if len(shape) == 1:
        return shape[0], shape[0]
    window = math.prod(shape[:-2])
    return window * shape[-2], window * shape[-1]


def scaled_std(fan_in: int, fan_out: int, *, scale: float, mode: str) -> float:
    """Return the standard deviation sqrt(scale / fan): scale 1 and "fan_avg" is Glorot's."""
    fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode]
    return math.sqrt(scale / max(1.0, fan))
