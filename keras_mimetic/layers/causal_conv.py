"""A causal depthwise convolution that continues from the inputs before."""

from typing import Any

from keras import ops


def causal_conv(inputs: Any, kernel: Any) -> Any:
    """Convolve channels of (batch, taps - 1 + length, channels) with filters (taps, channels).

    The first inputs are those before the sequence, and the last tap is for the current position.
    Filters are short, so they are applied tap by tap: grouped convolutions are slower on CPUs,
    several times so on JAX.
    """
    taps = kernel.shape[0]

    # Count from the end: exporters know that number even where they do not know the length.
    def shifted(tap: int) -> Any:
        return inputs[:, tap : (tap - taps + 1) or None]

    outputs = kernel[0] * shifted(0)
    for tap in range(1, taps):
        # In place on torch, without a new array for each tap.
        outputs += kernel[tap] * shifted(tap)
    return outputs


def conv_state_after(inputs: Any, taps: int, mask: Any = None) -> Any:
    """Return the last inputs of each sequence, (batch, taps - 1, channels), for its next position.

    A sequence ends at its last position where `mask`, (batch, length), is `True`.
    """
    if taps == 1:
        return inputs[:, :0]
    if mask is None:
        return inputs[:, 1 - taps :]
    positions = ops.arange(1, ops.shape(mask)[1] + 1)
    # A leading 0 instead of `initial=0`, which Keras's torch backend creates on the CPU.
    ends = ops.pad(ops.where(mask, positions, 0), [[0, 0], [1, 0]])
    lengths = ops.max(ends, axis=1)
    index = lengths[:, None] + ops.arange(taps - 1)
    return ops.take_along_axis(inputs, index[..., None], axis=1)
