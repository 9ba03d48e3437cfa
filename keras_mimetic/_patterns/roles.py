"""Attention recognized by its operations: product, softmax, product, projection.

One pass over the graph determines what each tensor contains: channels of a projection,
scores (a product of two projections), or values gathered by the softmax of scores.
"""

import dataclasses
import math
from collections.abc import Sequence

import keras
import numpy as np

from keras_mimetic._graph.graph import Call, Graph
from keras_mimetic._graph.operations import CONVOLUTIONS, does, is_depthwise, name_of
from keras_mimetic._graph.symbol import Nested, Value
from keras_mimetic._patterns import contents, heads
from keras_mimetic._patterns.causality import any_causal, bound, most_causal
from keras_mimetic._patterns.contents import (
    BOTH,
    Attention,
    Channels,
    Contents,
    Gathered,
    Pooled,
    Scores,
    Weights,
)
from keras_mimetic._patterns.kernels import matrix_of
from keras_mimetic._patterns.layout import equal, moved, spread, without_repeats
from keras_mimetic._patterns.streams import free_values

# Operations that keep the channel of each entry.
_KEEPING = ("copy", "add", "scale", "normalize")


def attentions(graph: Graph) -> list[Attention]:
    """Find all attention made of operations, or of Keras's attention layers without weights."""
    roles = _Roles(graph)
    for call in graph.calls:
        roles.visit(call)
    return [attention for attention in roles.found if attention.sources]


class _Roles:
    def __init__(self, graph: Graph) -> None:
        self.found: list[Attention] = []
        self._contents: dict[Value, Contents] = {}
        self._free = free_values(graph)

    def _of(self, value: Nested) -> Contents:
        return self._contents.get(value) if isinstance(value, Value) else None

    def _set(self, call: Call, content: Contents) -> None:
        for value in call.outputs:
            self._contents[value] = content

    def visit(self, call: Call) -> None:
        inputs = [self._of(value) for value in call.inputs]
        first = inputs[0] if inputs else None
        if _is_source(call):
            self._project(call, first)
        elif name_of(call.operation) == "DotProductAttention":
            self._dot_product_attention(call)
        elif isinstance(call.operation, keras.layers.Attention):
            self._keras_attention(call)
        elif does(call.operation, "contract") and any(inputs):
            self._contract(call)
        elif does(call.operation, "softmax") and isinstance(first, Scores):
            _find_mask(call, first.attention, call.inputs[0])
            self._set(call, Scores(first.attention, "softmax"))
        elif does(call.operation, "softmax") and type(first) is Channels:
            kind = Channels if _is_over_last_axis(call) else Weights
            self._set(call, kind(first.source))
        elif any(inputs) and not does(call.operation, "fill"):
            self._pass_on(call, inputs)

    # Projections.

    def _project(self, call: Call, content: Contents) -> None:
        if isinstance(content, Scores):
            # Talking heads.
            content.attention.reasons[BOTH] = contents.MIXED_HEADS
            self._set(call, content)
            return
        if isinstance(content, Gathered):
            _set_output(content, call)
        numbers, shape, matrix = None, call.outputs[0].sizes, matrix_of(call)
        activation = keras.activations.get(getattr(call.operation, "activation", None))
        is_linear = activation in (keras.activations.linear, None)
        if matrix is not None and shape is not None and is_linear:
            out = matrix.shape[matrix.inputs :]
            channels = np.arange(math.prod(out)).reshape(out)
            numbers = spread(channels, matrix.out_axes, shape)
        self._set(call, Channels(call, numbers))

    # Products.

    def _contract(self, call: Call) -> None:
        operands = [x for x in keras.tree.flatten(call.args) if hasattr(x, "shape")]
        axes = heads.factor_axes(call, [len(x.shape) for x in operands])
        if axes is None:
            return
        values = [n for n, x in enumerate(operands) if isinstance(x, Value)]
        if len(values) > 2:
            values = [n for n in values if self._of(operands[n]) is not None]
        factors = [self._of(operands[n]) for n in values]
        if len(values) == 1:
            # A product with constants or weights.
            (content,) = factors
            if isinstance(content, Channels):
                self._set(call, Channels(content.source))
            elif isinstance(content, Scores):
                content.attention.reasons[BOTH] = contents.MIXED_HEADS
                self._set(call, content)
        if len(values) != 2:
            return
        (first, second), (a, b) = factors, (axes[n] for n in values)
        if isinstance(first, Scores):
            self._gather(call, first, second, heads.ProductAxes(a, b, axes[-1]))
        elif isinstance(second, Scores):
            self._gather(call, second, first, heads.ProductAxes(b, a, axes[-1]))
        elif isinstance(first, Channels) or isinstance(second, Channels):
            self._score(call, first, second, heads.ProductAxes(a, b, axes[-1]))

    def _score(self, call: Call, query: Contents, key: Contents, axes: heads.ProductAxes) -> None:
        """Begin an attention at the product of queries and keys."""
        attention = Attention(_sources(query=query, key=key))
        if len(attention.sources) < 2:
            attention.reasons["query_key"] = f"its query or key is {contents.NONE}"
        attention.set_queries_and_keys(
            heads.by_head(_numbers(query), axes.first, axes.batch, axes.summed, axes.out),
            heads.by_head(_numbers(key), axes.second, axes.batch, axes.summed, axes.out),
        )
        self._set(call, Scores(attention))

    def _gather(self, call: Call, scores: Scores, value: Contents, axes: heads.ProductAxes) -> None:
        """Continue an attention at the product of its scores and values."""
        attention = scores.attention
        if attention in self.found:
            attention.reasons["value_output"] = contents.SEVERAL_USES
            return
        self.found.append(attention)
        if scores.function != "softmax":
            attention.reasons[BOTH] = contents.NO_SOFTMAX if scores.function else contents.LINEAR
        if not isinstance(value, Channels):
            attention.reasons["value_output"] = f"its value is {contents.NONE}"
            self._set(call, Gathered(attention))
            return
        attention.sources["value"] = value.source
        numbers = heads.gathered_channels(value.numbers, axes, call.outputs[0].sizes)
        own = [x for x in axes.second if x in axes.out and x not in axes.first]
        channels = None
        if numbers is not None:
            channels = heads.by_head(value.numbers, axes.second, axes.batch, own)
        if channels is None:
            attention.reasons.setdefault("value_output", contents.UNKNOWN)
        else:
            channels = np.unique(channels.reshape(-1, channels.shape[-1]), axis=0)
            attention.channels["value"] = channels
            if len(np.unique(channels)) != channels.size:
                attention.reasons["value_output"] = contents.SHARED_CHANNELS
        self._set(call, Gathered(attention, numbers))

    # Layers and operations that compute the whole attention.

    def _dot_product_attention(self, call: Call) -> None:
        arguments = bound(call)
        given = [self._of(arguments.pop(name)) for name in ("query", "key", "value")]
        masks = any_causal(arguments.values())
        attention = Attention(is_causal=most_causal((bool(call.operation.is_causal), masks)))
        self._whole(call, attention, given, "h")

    def _keras_attention(self, call: Call) -> None:
        arguments = bound(call)
        query, value, *keys = map(self._of, arguments["inputs"])
        attention = Attention(is_causal=arguments.get("use_causal_mask") is True)
        if isinstance(call.operation, keras.layers.AdditiveAttention):
            attention.reasons["query_key"] = contents.ADDITIVE
        self._whole(call, attention, [query, keys[0] if keys else value, value], "")

    def _whole(
        self, call: Call, attention: Attention, given: Sequence[Contents], head: str
    ) -> None:
        """Record both products of one call.

        Queries, keys and values have the axes (batch, positions, heads, channels), without
        heads if `head` is "".
        """
        query, key, value = given
        attention.sources |= _sources(query=query, key=key)
        if head:
            key, value = (_repeated(x, call.outputs[0].shape[2]) for x in (key, value))
        queries, keys = f"bn{head}d", f"bm{head}d"
        attention.set_queries_and_keys(
            heads.by_head(_numbers(query), queries, ["b", *head], ["d"]),
            heads.by_head(_numbers(key), keys, ["b", *head], ["d"]),
        )
        call = dataclasses.replace(call, outputs=call.outputs[:1])
        axes = heads.ProductAxes(f"bn{head}m", keys, queries)
        self._gather(call, Scores(attention, "softmax"), value, axes)

    # Everything else.

    def _pass_on(self, call: Call, inputs: list[Contents]) -> None:
        """Record what the outputs of any other operation contain."""
        scores = [x for x in inputs if isinstance(x, Scores)]
        channels = [x for x in inputs if type(x) is Channels]
        gathered = [x for x in inputs if isinstance(x, Gathered)]
        pooled = [x for x in inputs if isinstance(x, Pooled)]
        weights = [x for x in inputs if isinstance(x, Weights)]
        is_product = does(call.operation, "product")
        if scores and not (gathered or pooled):
            # Channels that are added to scores are a bias.
            self._pass_scores(call, inputs, scores)
        elif pooled:
            attention = pooled[0].attention
            if is_product and channels and attention not in self.found:
                self.found.append(attention)
            self._set(call, pooled[0])
        elif weights and channels and is_product:
            attention = Attention({"query": weights[0].source, "key": channels[0].source})
            attention.reasons[BOTH] = contents.SEPARABLE
            self._set(call, Pooled(attention))
        elif weights and not gathered:
            self._set(call, weights[0])
        elif channels and not gathered:
            self._pass_channels(call, inputs, channels)
        elif len(gathered) == 1 and not scores:
            self._pass_gathered(call, inputs, gathered[0])

    def _pass_scores(self, call: Call, inputs: list[Contents], scores: list[Scores]) -> None:
        # A product with learned positions only is a bias.
        own = [x for x in scores if not self._is_of_positions(x.attention)] or scores[:1]
        attention, function = own[0].attention, own[0].function
        if any(x.attention is not attention for x in own):
            attention.reasons["query_key"] = contents.SEVERAL
        _find_mask(call, attention, call.inputs[inputs.index(own[0])])
        if name_of(call.operation) == "Exp":
            function = "exp"
        elif does(call.operation, "activate") and not does(call.operation, "join"):
            function = function or "other"
        elif name_of(call.operation) in ("Divide", "TrueDivide") and function == "exp":
            # Exponentials, divided by their sum.
            function = "softmax" if len(own) > 1 else function
        self._set(call, Scores(attention, function))

    def _is_of_positions(self, attention: Attention) -> bool:
        sources = [attention.sources.get(role) for role in ("query", "key")]
        return any(x is None or x.inputs[0] in self._free for x in sources)

    def _pass_channels(self, call: Call, inputs: list[Contents], channels: list[Channels]) -> None:
        source = channels[0].source
        if any(x.source is not source for x in channels):
            return
        others = [value for value, x in zip(call.inputs, inputs, strict=True) if x is None]
        known = [x.numbers for x in channels if x.numbers is not None]
        if len(channels) > 1 and not does(call.operation, "add", "scale"):
            joined = _joined(call, known) if len(known) == len(call.inputs) else None
            self._set(call, Channels(source, joined))
        elif known and self._free.issuperset(others):
            self._set_each(call, channels[0], _one_of(call, known))
        else:
            self._set(call, Channels(source))

    def _pass_gathered(self, call: Call, inputs: list[Contents], gathered: Gathered) -> None:
        others = [value for value, x in zip(call.inputs, inputs, strict=True) if x is not gathered]
        # With a gate, the matrix depends on the position.
        is_gated = does(call.operation, "scale") and not self._free.issuperset(others)
        if is_gated:
            gathered.attention.reasons.setdefault("value_output", contents.GATED)
        self._set_each(call, gathered, None if is_gated else gathered.numbers)

    def _set_each(
        self, call: Call, content: Channels | Gathered, numbers: np.ndarray | None
    ) -> None:
        """Set what each output contains: `content`, with the channels that `numbers` become."""
        arrays: Sequence[np.ndarray | None] | None = None
        if numbers is None:
            pass
        elif does(call.operation, *_KEEPING) or name_of(call.operation) == "Where":
            shape = call.outputs[0].sizes
            if shape is not None and numbers.ndim <= len(shape):
                arrays = [np.broadcast_to(numbers, shape)]
        elif len(call.inputs) == 1:
            arrays = moved(call, numbers)
        for value, array in zip(call.outputs, arrays or [None] * len(call.outputs), strict=True):
            self._contents[value] = dataclasses.replace(content, numbers=array)


def _is_source(call: Call) -> bool:
    is_dense = isinstance(call.operation, (keras.layers.Dense, *CONVOLUTIONS))
    if not is_dense and not hasattr(call.operation, "equation"):
        return False
    return not is_depthwise(call.operation) and len(call.inputs) == 1


def _is_over_last_axis(call: Call) -> bool:
    axis = getattr(call.operation, "axis", -1)
    return axis in (-1, len(call.outputs[0].shape) - 1)


def _numbers(content: Contents) -> np.ndarray | None:
    return content.numbers if isinstance(content, Channels) else None


def _sources(**given: Contents) -> dict[str, Call]:
    return {role: x.source for role, x in given.items() if isinstance(x, Channels)}


def _find_mask(call: Call, attention: Attention, scores: Value) -> None:
    """Record whether an argument besides the scores hides later positions."""
    others = [x for x in keras.tree.flatten((call.args, call.kwargs)) if x is not scores]
    attention.is_causal = most_causal((attention.is_causal, any_causal(others)))


def _set_output(gathered: Gathered, call: Call) -> None:
    """Record the output projection, and its rows that multiply the channels of the values."""
    attention = gathered.attention
    if "output" in attention.sources:
        attention.reasons["value_output"] = contents.SEVERAL_OUTPUTS
        return
    attention.sources["output"] = call
    matrix = matrix_of(call)
    if matrix is None:
        attention.reasons["value_output"] = contents.NO_MATRIX
        return
    value = attention.channels.get("value")
    if gathered.numbers is None or value is None:
        return
    rows = heads.output_rows(gathered.numbers, matrix.in_axes, value)
    if rows is None:
        attention.reasons.setdefault("value_output", contents.UNKNOWN)
        return
    attention.channels["output"] = rows
    attention.is_grouped |= len(rows) > len(value)


def _repeated(content: Contents, heads: int | None) -> Contents:
    """Repeat heads that several query heads share, on the third axis."""
    if not isinstance(content, Channels) or content.numbers is None or heads is None:
        return content
    numbers = np.repeat(content.numbers, heads // content.numbers.shape[2], axis=2)
    return Channels(content.source, numbers)


def _one_of(call: Call, arrays: list[np.ndarray]) -> np.ndarray | None:
    """Return the channels of a sum; those of a rotation are those of one summand."""
    first, *others = arrays
    if len(others) != 1 or equal(first, others[0]) or first.shape != others[0].shape:
        return first if all(equal(first, x) for x in others) else None
    # x cos + (x rotated) sin, or x cos - y sin and x sin + y cos.
    is_difference = name_of(call.operation) == "Subtract"
    are_halves = not np.isin(without_repeats(first), without_repeats(others[0])).any()
    return max(first, others[0], key=np.max) if are_halves and not is_difference else first


def _joined(call: Call, arrays: list[np.ndarray]) -> np.ndarray | None:
    """Return the channels of concatenated or stacked tensors."""
    name, axis = name_of(call.operation), getattr(call.operation, "axis", None)
    shape = call.outputs[0].sizes
    if name not in ("Concatenate", "Stack") or not isinstance(axis, int) or shape is None:
        return None
    axis %= len(shape)
    if name == "Stack":
        arrays = [np.expand_dims(x, axis) for x in arrays]
    # Keep one entry of axes along which all are constant.
    kept = tuple(
        slice(0, 1) if n != axis and not any(x.strides[n] for x in arrays) else slice(None)
        for n in range(len(shape))
    )
    return np.broadcast_to(np.concatenate([x[kept] for x in arrays], axis), shape)
