"""Checks of what a recurrent layer is called with: masks and states."""

from typing import Any

from keras import ops


def check_mask(mask: Any, inputs: Any) -> Any:
    """Return the mask of inputs (batch, length, channels) as booleans (batch, length)."""
    mask = ops.cast(ops.convert_to_tensor(mask), "bool")
    shape = tuple(mask.shape)
    if not shapes_agree(shape, tuple(inputs.shape[:2])):
        raise ValueError(
            f"Argument `mask` must have the shape (batch, length), that of the inputs without "
            f"their channels. Received: a mask of shape {shape}, "
            f"inputs of shape {tuple(inputs.shape)}"
        )
    return mask


def check_state(layer_name: str, state: Any, shapes: tuple[Any, Any]) -> tuple[Any, Any]:
    """Return a state, after checking that it is two tensors of these shapes."""
    parts = state if isinstance(state, (tuple, list)) else ()
    if len(parts) != 2 or not all(hasattr(part, "shape") for part in parts):
        of = f" of {', '.join(type(part).__name__ for part in parts)}" if parts else ""
        raise ValueError(
            f"The state of layer '{layer_name}' must be a pair of tensors, as "
            f"`get_initial_state` returns. Received: {type(state).__name__}{of}"
        )
    for part, shape in zip(parts, shapes, strict=True):
        given = tuple(part.shape)
        if not shapes_agree(given, shape):
            raise ValueError(
                f"The state of layer '{layer_name}' must have the shapes {shapes[0]} and "
                f"{shapes[1]}. Received: {given}"
            )
    return parts[0], parts[1]


def shapes_agree(shape: tuple[Any, ...], other: tuple[Any, ...]) -> bool:
    """Return whether two shapes are equal, as far as both are known."""
    return len(shape) == len(other) and all(
        # Check types first: TensorFlow cannot compare sizes that are unknown in a graph.
        not (isinstance(a, int) and isinstance(b, int)) or a == b
        for a, b in zip(shape, other, strict=True)
    )
