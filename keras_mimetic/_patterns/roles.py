"""Attention recognized by its operations: product, softmax, product, projection.

One pass over the graph determines what each tensor contains: channels of a projection,
scores (a product of two projections), or values gathered by the softmax of scores.
"""

import dataclasses
import math
from typing import Any

import keras
import numpy as np

from keras_mimetic._patterns.causality import any_causal, most_causal
from keras_mimetic._patterns.kernels import Matrix, matrix_of
from keras_mimetic._patterns.layout import constant_along, equal, moved, spread
from keras_mimetic._patterns.streams import free_values
from keras_mimetic._tracing.graph import Call, Graph
from keras_mimetic._tracing.operations import CONVOLUTIONS, does, is_depthwise, name_of
from keras_mimetic._tracing.symbol import Value


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A call of a projection, with its matrix (`None` if it has no matrix form)."""

    call: Call
    matrix: Matrix | None


@dataclasses.dataclass(frozen=True, eq=False)
class Channels:
    """Channels of a projection; `numbers` is `None` if they are unknown."""

    source: Source
    numbers: np.ndarray | None


@dataclasses.dataclass(eq=False)
class Attention:
    """One attention: its projections, its channels by head, and reasons to skip it.

    `query` and `key` are the channel numbers of each head, of shape (heads, head_dim).
    `value` has the channels of the values, and `rows` the rows of the output projection
    that multiply them, in the same order. If heads share keys and values (`grouped`), `key`
    and `value` have one row per group, and the heads of a group follow one another. `odd`
    has skip reasons by pair.
    """

    query_source: Source | None = None
    key_source: Source | None = None
    value_source: Source | None = None
    output: Source | None = None
    query: np.ndarray | None = None
    key: np.ndarray | None = None
    value: np.ndarray | None = None
    rows: np.ndarray | None = None
    causal: bool | None = False
    grouped: bool = False
    odd: dict[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """A product of the channels of two projections, before or after its softmax.

    `function` is the function of the scores: "", "exp", "softmax" or "other".
    """

    attention: Attention
    function: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Weights(Channels):
    """Weights of positions: a softmax of the channels of a projection over another axis."""


@dataclasses.dataclass(frozen=True, eq=False)
class Pooled:
    """Channels of a projection, pooled with weights of positions."""

    attention: Attention


@dataclasses.dataclass(frozen=True, eq=False)
class Gathered:
    """Values gathered by attention; `numbers` are their channels."""

    attention: Attention
    numbers: np.ndarray | None


_TAGS = (Channels, Weights, Pooled, Scores, Gathered)
GROUPED = "grouped-query attention: written only if `query_key` or `value_output` is given"
SHARED_CHANNELS = "its heads share channels"
MIXED_HEADS = "its heads are mixed with one another"
SEVERAL = "its scores are a sum of several products"
GATED = "a gate multiplies its values"
SEPARABLE = "separable attention: a softmax over positions of one projection weighs another"
NO_SOFTMAX = "its weights are another function of its scores than a softmax"
LINEAR = "linear attention: no softmax between its products"
UNKNOWN = "the operations between its projections and their product could not be traced"
NO_OUTPUT = "no projection of its values was found"
NO_MATRIX = "its projection is not one matrix on the channels of each position"
NONE = "not made by a projection"
ADDITIVE = "additive attention: its scores are not a product"


# Operations that keep the channel of each entry.
_KEEPING = ("copy", "add", "scale", "normalize")


def attentions(graph: Graph) -> list[Attention]:
    """Find all attention made of operations, or of Keras's attention layers without weights."""
    roles = _Roles(graph)
    for call in graph.calls:
        roles.visit(call)
    return [found for found in roles.found if _has_weights(found)]


def _has_weights(found: Attention) -> bool:
    sources = (found.query_source, found.key_source, found.value_source, found.output)
    return any(source is not None for source in sources)


class _Roles:
    def __init__(self, graph: Graph) -> None:
        self.found: list[Attention] = []
        self._tags: dict[Value, Any] = {}
        self._free = free_values(graph)

    def _tag(self, value: Any) -> Any:
        return self._tags.get(value) if isinstance(value, Value) else None

    def _is_free(self, value: Value) -> bool:
        return value in self._free or (value.producer is None and value.constant is not None)

    def visit(self, call: Call) -> None:
        name = name_of(call.operation)
        tags = [self._tag(value) for value in call.inputs]
        if self._is_source(call):
            self._project(call, tags[0] if tags else None)
        elif name == "DotProductAttention":
            self._fused(call, *(self._tag(x) for x in _three(call)))
        elif isinstance(call.operation, keras.layers.Attention):
            self._keras_attention(call)
        elif does(call.operation, "contract") and any(tags):
            self._contract(call)
        elif does(call.operation, "softmax") and isinstance(tags[0], Scores):
            self._masks(call, tags[0].attention, call.inputs[0])
            self._set(call, Scores(tags[0].attention, "softmax"))
        elif does(call.operation, "softmax") and type(tags[0]) is Channels:
            is_over_channels = _last_axis(call)
            kind = Channels if is_over_channels else Weights
            self._set(call, kind(tags[0].source, None))
        elif any(tags) and not does(call.operation, "fill"):
            self._pass_on(call, tags)

    def _set(self, call: Call, tag: Any) -> None:
        for value in call.outputs:
            self._tags[value] = tag

    # Projections.

    def _is_source(self, call: Call) -> bool:
        is_dense = isinstance(call.operation, (keras.layers.Dense, *CONVOLUTIONS))
        if not is_dense and not hasattr(call.operation, "equation"):
            return False
        return not is_depthwise(call.operation) and len(call.inputs) == 1

    def _project(self, call: Call, tag: Any) -> None:
        layer, value = call.operation, call.outputs[0]
        matrix = matrix_of(layer, len(call.inputs[0].shape), len(value.shape))
        if isinstance(tag, Scores):
            # Talking heads.
            tag.attention.odd["both"] = MIXED_HEADS
            self._set(call, tag)
            return
        source = Source(call, matrix)
        if isinstance(tag, Gathered):
            self._close(tag, source)
        numbers = None
        shape = _known(value)
        if matrix is not None and shape is not None:
            out = matrix.shape[matrix.inputs :]
            numbers = spread(np.arange(math.prod(out)).reshape(out), matrix.out_axes, shape)
        if keras.activations.get(getattr(layer, "activation", None)) not in (
            keras.activations.linear,
            None,
        ):
            numbers = None
        self._set(call, Channels(source, numbers))

    def _close(self, tag: Gathered, source: Source) -> None:
        """Match the rows of the output projection with the channels of the values."""
        attention = tag.attention
        if attention.output is not None:
            attention.odd["value_output"] = "several projections follow it"
            return
        attention.output = source
        if source.matrix is None:
            attention.odd["value_output"] = NO_MATRIX
        if tag.numbers is None or source.matrix is None or attention.value is None:
            return
        axes = source.matrix.in_axes
        others = [axis for axis in range(tag.numbers.ndim) if axis not in axes]
        if not all(constant_along(tag.numbers, axis) for axis in others):
            attention.odd.setdefault("value_output", UNKNOWN)
            return
        index = tuple(slice(None) if axis in axes else 0 for axis in range(tag.numbers.ndim))
        kept = tag.numbers[index]
        order = np.argsort(np.argsort(axes))
        met = kept.transpose(order).ravel()
        channels, counts = np.unique(met, return_counts=True)
        size = counts[0]
        value = attention.value
        if (counts != size).any() or not np.array_equal(channels, np.unique(value)):
            attention.odd.setdefault("value_output", UNKNOWN)
            return
        # The rows that multiply each channel: one for each head of a group.
        rows = np.argsort(met, kind="stable").reshape(-1, size)
        rows = rows[np.searchsorted(channels, value)].swapaxes(1, 2)
        attention.rows = rows.reshape(-1, value.shape[1])
        attention.grouped |= bool(size > 1)

    # Products.

    def _contract(self, call: Call) -> None:
        operands = [x for x in keras.tree.flatten(call.args) if hasattr(x, "shape")]
        terms = _equation(call, [len(x.shape) for x in operands])
        if terms is None:
            return
        of = [n for n, x in enumerate(operands) if isinstance(x, Value)]
        if len(of) > 2:
            of = [n for n in of if self._tag(operands[n]) is not None]
        tags = [self._tag(operands[n]) for n in of]
        if len(of) == 1:
            # A product with constants or weights.
            (tag,) = tags
            if isinstance(tag, Channels):
                self._set(call, Channels(tag.source, None))
            elif isinstance(tag, Scores):
                tag.attention.odd["both"] = MIXED_HEADS
                self._set(call, tag)
        if len(of) != 2:
            return
        (first, second), (a, b), out = tags, (terms[n] for n in of), terms[-1]
        if isinstance(first, Scores):
            self._gather(call, first, second, b, a, out)
        elif isinstance(second, Scores):
            self._gather(call, second, first, a, b, out)
        elif isinstance(first, Channels) or isinstance(second, Channels):
            self._score(call, first, second, (a, b, out))

    def _score(self, call: Call, query: Any, key: Any, terms: tuple[str, str, str]) -> None:
        a, b, out = terms
        attention = Attention()
        attention.query_source = query.source if isinstance(query, Channels) else None
        attention.key_source = key.source if isinstance(key, Channels) else None
        contracted = [x for x in a if x in b and x not in out]
        batch = [x for x in a if x in b and x in out]
        rows = [_rows(x, term, batch, contracted, out) for x, term in ((query, a), (key, b))]
        if rows[0] is None or rows[1] is None:
            known = isinstance(query, Channels) and isinstance(key, Channels)
            attention.odd["query_key"] = UNKNOWN if known else f"its query or key is {NONE}"
        else:
            # Query heads that share a key head may have an axis of their own.
            more = rows[1].ndim - rows[0].ndim
            self._heads(attention, _with_axes(rows[0], more), _with_axes(rows[1], -more))
        self._set(call, Scores(attention))

    def _heads(self, attention: Attention, query: np.ndarray, key: np.ndarray) -> None:
        size = query.shape[-1]
        try:
            query, key = np.broadcast_arrays(query, key)
        except ValueError:
            attention.odd["query_key"] = UNKNOWN
            return
        pairs = np.concatenate([query.reshape(-1, size), key.reshape(-1, size)], axis=1)
        _, first = np.unique(pairs, axis=0, return_index=True)
        pairs = pairs[np.sort(first)]
        query, key = pairs[:, :size], pairs[:, size:]
        shared, group = np.unique(key, axis=0, return_inverse=True)
        if len(shared) < len(key):
            order = np.argsort(group.ravel(), kind="stable")
            query, key = query[order], shared
            attention.grouped = True
        attention.query, attention.key = query, key
        sizes = np.bincount(group.ravel())
        if any(len(np.unique(x)) != x.size for x in (query, key)) or np.ptp(sizes):
            attention.odd["query_key"] = SHARED_CHANNELS

    def _gather(
        self, call: Call, scores: Scores, value: Any, term: str, scored: str, out: str
    ) -> None:
        attention = scores.attention
        if attention.value_source is not None or attention in self.found:
            attention.odd["value_output"] = "its softmax has several uses"
            return
        self.found.append(attention)
        if scores.function != "softmax":
            attention.odd["both"] = NO_SOFTMAX if scores.function else LINEAR
        if not isinstance(value, Channels):
            attention.odd["value_output"] = f"its value is {NONE}"
            self._set(call, Gathered(attention, None))
            return
        attention.value_source = value.source
        numbers, shape, given = None, _known(call.outputs[0]), value.numbers
        contracted = [x for x in term if x in scored and x not in out]
        if given is not None and (
            shape is not None and all(constant_along(given, term.index(x)) for x in contracted)
        ):
            index = tuple(0 if x in contracted else slice(None) for x in term)
            kept = "".join(x for x in term if x not in contracted)
            axes = tuple(out.index(x) for x in kept)
            numbers = spread(given[index], axes, shape)
            own = [x for x in kept if x not in scored]
            batch = [x for x in kept if x in scored]
            rows = _rows(value, term, batch, own)
            if rows is not None:
                heads = np.unique(rows.reshape(-1, rows.shape[-1]), axis=0)
                attention.value = heads
                if len(np.unique(heads)) != heads.size:
                    attention.odd["value_output"] = SHARED_CHANNELS
        if attention.value is None:
            attention.odd.setdefault("value_output", UNKNOWN)
        self._set(call, Gathered(attention, numbers))

    # Layers and operations that compute the whole attention.

    def _fused(self, call: Call, query: Any, key: Any, value: Any) -> None:
        attention = Attention(causal=bool(call.operation.is_causal))
        masks = any_causal((*call.args[3:], *call.kwargs.values()))
        attention.causal = most_causal((attention.causal, masks))
        self._all(call, attention, query, key, value, ("bnhd", "bmhd", "bnhm", "bmhd", "bnhd"))

    def _keras_attention(self, call: Call) -> None:
        given = call.args[0] if call.args else call.kwargs.get("inputs")
        given = list(given) if isinstance(given, (list, tuple)) else []
        query, value = (self._tag(x) for x in given[:2]) if len(given) > 1 else (None, None)
        key = self._tag(given[2]) if len(given) > 2 else value
        attention = Attention()
        attention.causal = call.kwargs.get("use_causal_mask") is True
        if isinstance(call.operation, keras.layers.AdditiveAttention):
            attention.odd["query_key"] = ADDITIVE
        self._all(call, attention, query, key, value, ("bnd", "bmd", "bnm", "bmd", "bnd"))

    def _all(
        self, call: Call, attention: Attention, query: Any, key: Any, value: Any, terms: Any
    ) -> None:
        """Record both products of one call, given the axes of queries, keys, scores and values."""
        a, b, scored, c, out = terms
        for name, tag in (("query", query), ("key", key)):
            if isinstance(tag, Channels):
                setattr(attention, f"{name}_source", tag.source)
        shared = [x for x in a if x in b and x in scored]
        if "h" in a:
            shared = ["b", "h"]
            key, value = (_repeated(x, call.outputs[0].shape[2]) for x in (key, value))
        rows = [_rows(x, term, shared, ["d"]) for x, term in ((query, a), (key, b))]
        if rows[0] is None or rows[1] is None:
            attention.odd.setdefault("query_key", UNKNOWN)
        else:
            self._heads(attention, rows[0], rows[1])
        tag = Scores(attention, "softmax")
        call = dataclasses.replace(call, outputs=call.outputs[:1])
        self._gather(call, tag, value, c, scored, out)

    # Everything else.

    def _masks(self, call: Call, attention: Attention, scores: Value) -> None:
        others = [x for x in keras.tree.flatten((call.args, call.kwargs)) if x is not scores]
        attention.causal = most_causal((attention.causal, any_causal(others)))

    def _pass_on(self, call: Call, tags: list[Any]) -> None:
        of: dict[type, list[Any]] = {
            kind: [tag for tag in tags if type(tag) is kind] for kind in _TAGS
        }
        is_product = does(call.operation, "product")
        if of[Scores] and not (of[Gathered] or of[Pooled]):
            # Channels that are added to scores are a bias.
            self._scores(call, tags, of[Scores])
        elif of[Pooled]:
            attention = of[Pooled][0].attention
            if is_product and of[Channels] and attention not in self.found:
                self.found.append(attention)
            self._set(call, of[Pooled][0])
        elif of[Weights] and of[Channels] and is_product:
            attention = Attention(of[Weights][0].source, of[Channels][0].source)
            attention.odd["both"] = SEPARABLE
            self._set(call, Pooled(attention))
        elif of[Weights] and not of[Gathered]:
            self._set(call, of[Weights][0])
        elif of[Channels] and not of[Gathered]:
            self._channels(call, tags, of[Channels])
        elif len(of[Gathered]) == 1 and not of[Scores]:
            (tag,) = of[Gathered]
            others = [v for v, known in zip(call.inputs, tags, strict=True) if known is not tag]
            # With a gate, the matrix depends on the position.
            gated = does(call.operation, "scale") and not all(map(self._is_free, others))
            if gated:
                tag.attention.odd.setdefault("value_output", GATED)
            numbers = None if gated else tag.numbers
            self._arrays(call, numbers, lambda x: Gathered(tag.attention, x))

    def _scores(self, call: Call, tags: list[Any], tagged: list[Scores]) -> None:
        # A product with learned positions only is a bias.
        own = [t for t in tagged if not self._of_positions(t.attention)] or tagged[:1]
        first = own[0]
        if any(tag.attention is not first.attention for tag in own):
            first.attention.odd["query_key"] = SEVERAL
        scored = call.inputs[tags.index(first)]
        self._masks(call, first.attention, scored)
        function = first.function
        if name_of(call.operation) == "Exp":
            function = "exp"
        elif does(call.operation, "activate") and not does(call.operation, "join"):
            function = function or "other"
        elif name_of(call.operation) in ("Divide", "TrueDivide") and function == "exp":
            # Exponentials, divided by their sum.
            function = "softmax" if len(own) > 1 else function
        self._set(call, Scores(first.attention, function))

    def _of_positions(self, attention: Attention) -> bool:
        sources = (attention.query_source, attention.key_source)
        return any(s is None or self._is_free(s.call.inputs[0]) for s in sources)

    def _channels(self, call: Call, tags: list[Any], tagged: list[Channels]) -> None:
        source = tagged[0].source
        if any(tag.source is not source for tag in tagged):
            return
        others = [v for v, tag in zip(call.inputs, tags, strict=True) if tag is None]
        known = [tag.numbers for tag in tagged if tag.numbers is not None]
        if len(tagged) > 1 and not does(call.operation, "add", "scale"):
            joined = _joined(call, known) if len(known) == len(call.inputs) else None
            self._set(call, Channels(source, joined))
        elif known and all(self._is_free(value) for value in others):
            self._arrays(call, _one_of(call, known), lambda x: Channels(source, x))
        else:
            self._set(call, Channels(source, None))

    def _arrays(self, call: Call, numbers: Any, make: Any) -> None:
        """Tag the outputs of a call with the channels of its input, if they are still known."""
        arrays: list[Any] | None = None
        if numbers is not None:
            shape = _known(call.outputs[0])
            if does(call.operation, *_KEEPING) or name_of(call.operation) == "Where":
                if shape is not None and numbers.ndim <= len(shape):
                    arrays = [np.broadcast_to(numbers, shape)]
            elif len(call.inputs) == 1:
                arrays = moved(call, numbers)
        if arrays is None:
            arrays = [None] * len(call.outputs)
        for value, array in zip(call.outputs, arrays, strict=True):
            self._tags[value] = make(array)


def _repeated(tag: Any, heads: int | None) -> Any:
    """Repeat heads that several query heads share, on the third axis."""
    if not isinstance(tag, Channels) or tag.numbers is None or heads is None:
        return tag
    numbers = np.repeat(tag.numbers, heads // tag.numbers.shape[2], axis=2)
    return Channels(tag.source, numbers)


def _known(value: Value) -> tuple[int, ...] | None:
    """Return the shape of a value, or `None` if a size is unknown."""
    sizes = [size for size in value.shape if size is not None]
    return tuple(sizes) if len(sizes) == len(value.shape) else None


def _one_of(call: Call, arrays: list[np.ndarray]) -> np.ndarray | None:
    """Return the channels of a sum; those of a rotation are those of one summand."""
    first, *others = arrays
    if len(others) != 1 or equal(first, others[0]) or first.shape != others[0].shape:
        return first if all(equal(first, x) for x in others) else None
    # x cos + (x rotated) sin, or x cos - y sin and x sin + y cos.
    is_difference = name_of(call.operation) == "Subtract"
    are_halves = not np.isin(_thin(first), _thin(others[0])).any()
    return max(first, others[0], key=np.max) if are_halves and not is_difference else first


def _joined(call: Call, arrays: list[np.ndarray]) -> np.ndarray | None:
    """Return the channels of concatenated or stacked tensors."""
    name, axis = name_of(call.operation), getattr(call.operation, "axis", None)
    shape = _known(call.outputs[0])
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


def _thin(array: np.ndarray) -> np.ndarray:
    return array[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in array.strides)]


def _with_axes(rows: np.ndarray, number: int) -> np.ndarray:
    """Insert axes of size 1 before the last."""
    return rows.reshape(*rows.shape[:-1], *[1] * number, rows.shape[-1])


def _rows(
    tag: Any, term: str, batch: list[str], own: list[str], out: str = ""
) -> np.ndarray | None:
    """Return channel numbers by batch axes and `own` axes; `None` if they vary along others.

    Axes of `out` along which they vary count as batch axes.
    """
    if not isinstance(tag, Channels) or tag.numbers is None or tag.numbers.ndim != len(term):
        return None
    numbers = tag.numbers
    varying = [x for x in term if x in out and not constant_along(numbers, term.index(x))]
    batch = [*batch, *(x for x in varying if x not in batch and x not in own)]
    rest = [x for x in term if x not in batch and x not in own]
    if not all(constant_along(tag.numbers, term.index(x)) for x in rest):
        return None
    kept = tag.numbers
    index = []
    for x in term:
        # Keep one entry of axes along which the channel is constant, such as the batch.
        alike = x in batch and constant_along(kept, term.index(x))
        index.append(slice(0, 1) if alike else 0 if x in rest else slice(None))
    letters = [x for x in term if x not in rest]
    kept = kept[tuple(index)].transpose([letters.index(x) for x in (*batch, *own)])
    return kept.reshape(*kept.shape[: len(batch)], -1)


def _equation(call: Call, ranks: list[int]) -> list[str] | None:
    """Return the axes of the factors and their product as letters."""
    name = name_of(call.operation)
    if name == "Einsum":
        left, _, out = getattr(call.operation, "subscripts", "").replace(" ", "").partition("->")
        terms = [*left.split(","), out]
        if not out or len(terms) != len(ranks) + 1:
            return None
        # An ellipsis is the first axes of the longest term. Use letters that no equation has.
        counts = [rank - len(x) + 3 for x, rank in zip(terms, ranks, strict=False) if "..." in x]
        dots = "".join(chr(0x1000 + n) for n in range(max(counts, default=0)))
        own = [dots[len(dots) - rank + len(x) - 3 :] for x, rank in zip(terms, ranks, strict=False)]
        return [x.replace("...", more) for x, more in zip(terms, [*own, dots], strict=True)]
    if len(ranks) != 2:
        return None
    if name == "Matmul":
        if min(ranks) < 2:
            return None
        letters = [chr(0x61 + n) for n in range(max(ranks) - 2)]
        a = "".join(letters[len(letters) - ranks[0] + 2 :])
        b = "".join(letters[len(letters) - ranks[1] + 2 :])
        return [f"{a}xy", f"{b}yz", "".join(letters) + "xz"]
    axes = getattr(call.operation, "axes", None)
    if axes is None or ranks != [3, 3]:
        return None
    axes = [axis % 3 for axis in (axes if isinstance(axes, (list, tuple)) else [axes, axes])]
    if 0 in axes:
        return None
    a = "bxy" if axes[0] == 2 else "byx"
    b = "bzy" if axes[1] == 2 else "byz"
    return [a, b, "bxz"]


def _last_axis(call: Call) -> bool:
    """Return whether a softmax is over the last axis."""
    axis = getattr(call.operation, "axis", -1)
    return axis in (-1, len(call.outputs[0].shape) - 1)


def _three(call: Call) -> list[Any]:
    given = [*call.args[:3]]
    return given + [call.kwargs.get(n) for n in ("query", "key", "value")[len(given) :]]
