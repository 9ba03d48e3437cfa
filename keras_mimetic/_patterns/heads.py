"""The channels of each head, from the products of an attention.

Axes of tensors are letters here, as in an equation of `einsum`: a tensor with the axes
"bnhd" has four.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from keras_mimetic._graph.graph import Call
from keras_mimetic._graph.operations import einsum_axes, name_of
from keras_mimetic._patterns.layout import constant_along, spread


class ProductAxes(NamedTuple):
    """The axes of the two factors of a product, and of the product."""

    first: str
    second: str
    out: str

    @property
    def batch(self) -> list[str]:
        """Axes of both factors and of the product."""
        return [x for x in self.first if x in self.second and x in self.out]

    @property
    def summed(self) -> list[str]:
        """Axes of both factors that the product has no more."""
        return [x for x in self.first if x in self.second and x not in self.out]


class Heads(NamedTuple):
    """Channels of queries, of shape (heads, head_dim), and of keys, (groups, head_dim)."""

    query: np.ndarray
    key: np.ndarray
    share_channels: bool


def pair_heads(query: np.ndarray, key: np.ndarray) -> Heads | None:
    """Return the heads of queries and keys, from channel numbers of shape (..., head_dim).

    `None` if they do not belong together. Heads that share a key follow one another.
    """
    # Query heads that share a key head may have an axis of their own.
    rank = max(query.ndim, key.ndim)
    query, key = (
        x.reshape(*x.shape[:-1], *[1] * (rank - x.ndim), x.shape[-1]) for x in (query, key)
    )
    try:
        query, key = np.broadcast_arrays(query, key)
    except ValueError:
        return None
    # One row for each head that differs, in their first order.
    pairs = np.concatenate([x.reshape(-1, x.shape[-1]) for x in (query, key)], axis=1)
    _, first = np.unique(pairs, axis=0, return_index=True)
    query, key = np.split(pairs[np.sort(first)], 2, axis=1)
    groups, group_of_head = np.unique(key, axis=0, return_inverse=True)
    sizes = np.bincount(group_of_head.ravel())
    if len(groups) < len(key):
        query, key = query[np.argsort(group_of_head.ravel(), kind="stable")], groups
    share = any(len(np.unique(x)) != x.size for x in (query, key)) or bool(np.ptp(sizes))
    return Heads(query, key, share)


def output_rows(
    gathered: np.ndarray, in_axes: tuple[int, ...], value: np.ndarray
) -> np.ndarray | None:
    """Return the rows of the output projection that multiply each value, (heads, head_dim).

    `gathered` has the shape of the projection's input, of which it contracts `in_axes`, in
    the order of its kernel. `value` has the channels of the values, (groups, head_dim).
    `None` if not all positions and heads have the same.
    """
    others = [axis for axis in range(gathered.ndim) if axis not in in_axes]
    if not all(constant_along(gathered, axis) for axis in others):
        return None
    one_position = gathered[
        tuple(slice(None) if axis in in_axes else 0 for axis in range(gathered.ndim))
    ]
    kernel_order = [sorted(in_axes).index(axis) for axis in in_axes]
    channel_of_row = one_position.transpose(kernel_order).ravel()
    channels, counts = np.unique(channel_of_row, return_counts=True)
    if (counts != counts[0]).any() or not np.array_equal(channels, np.unique(value)):
        return None
    # (channels, heads of a group), then (groups, head_dim, heads of a group).
    rows = np.argsort(channel_of_row, kind="stable").reshape(-1, counts[0])
    rows = rows[np.searchsorted(channels, value)]
    return rows.swapaxes(1, 2).reshape(-1, value.shape[1])


def gathered_channels(
    value: np.ndarray | None, axes: ProductAxes, shape: tuple[int, ...] | None
) -> np.ndarray | None:
    """Return the channels of a product of scores and values, whose channels are `value`.

    `None` if they are unknown, or vary along the axes that are summed.
    """
    summed = [n for n, x in enumerate(axes.second) if x not in axes.out]
    if value is None or shape is None or not all(constant_along(value, n) for n in summed):
        return None
    kept = value[tuple(0 if n in summed else slice(None) for n in range(value.ndim))]
    out_axes = tuple(axes.out.index(x) for x in axes.second if x in axes.out)
    return spread(kept, out_axes, shape)


def by_head(
    numbers: np.ndarray | None, axes: str, heads: Sequence[str], own: Sequence[str], out: str = ""
) -> np.ndarray | None:
    """Return the channels of a tensor by head, of shape (*heads, head_dim).

    `heads` are the axes of heads, which may be the batch, and axes of `out` along which the
    channel varies are more of them. `own` are the axes of the channels of one head. `None`
    if the channel is unknown, or varies along other axes.
    """
    if numbers is None or numbers.ndim != len(axes):
        return None
    varying = {x for n, x in enumerate(axes) if not constant_along(numbers, n)}
    kept = [*heads, *own]
    more = [x for x in axes if x in varying and x in out and x not in kept]
    heads = [*heads, *more]
    if not varying <= {*heads, *own}:
        return None
    # One entry is enough for axes along which the channel is constant, such as the batch.
    index = [slice(None) if x in own or x in varying else slice(0, 1) for x in axes]
    order = [axes.index(x) for x in (*heads, *own)]
    rest = [n for n in range(len(axes)) if n not in order]
    numbers = numbers[tuple(index)].transpose(*order, *rest)
    return numbers.reshape(*numbers.shape[: len(heads)], -1)


def factor_axes(call: Call, ranks: list[int]) -> list[str] | None:
    """Return the axes of the factors of a product, and of the product."""
    name = name_of(call.operation)
    if name == "Einsum":
        return einsum_axes(getattr(call.operation, "subscripts", ""), ranks)
    if len(ranks) != 2:
        return None
    if name == "Matmul":
        if min(ranks) < 2:
            return None
        # The last letters of "...ab" are the batch axes that a factor has.
        batch = "".join(chr(ord("a") + n) for n in range(max(ranks) - 2))
        first, second = (batch[len(batch) - rank + 2 :] for rank in ranks)
        return [f"{first}xy", f"{second}yz", f"{batch}xz"]
    axes = getattr(call.operation, "axes", None)
    if axes is None or ranks != [3, 3]:
        return None
    axes = [axis % 3 for axis in (axes if isinstance(axes, (list, tuple)) else [axes, axes])]
    if 0 in axes:
        return None
    return ["bxy" if axes[0] == 2 else "byx", "bzy" if axes[1] == 2 else "byz", "bxz"]
