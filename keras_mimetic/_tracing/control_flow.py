"""Loops and branches of `keras.ops`, whose bodies run once so that their calls are recorded.

Each function has the arguments of the function that it replaces in the backend. A loop
returns the outputs of one step. All branches run, and a sum joins their outputs.
"""

from typing import Any

import keras
from keras import ops

from keras_mimetic._tracing.symbol import Symbol, recorder

# Class names of the operations, which `keras.ops` does not export.
OPERATIONS = {
    *("Map", "VectorizedMap", "Scan", "AssociativeScan"),
    *("WhileLoop", "ForiLoop", "Cond", "Switch"),
}


def scan(f: Any, init: Any, xs: Any = None, length: Any = None, **options: Any) -> Any:
    carry, y = f(init, _first(xs))
    return carry, _repeated(y, _length(xs) if length is None else int(length))


def map(f: Any, xs: Any) -> Any:
    return _repeated(f(_first(xs)), _length(xs))


def associative_scan(f: Any, elems: Any, **options: Any) -> Any:
    return f(elems, elems)


def while_loop(cond: Any, body: Any, loop_vars: Any, **options: Any) -> Any:
    if isinstance(loop_vars, (list, tuple)):
        return tuple(body(*loop_vars))
    return body(loop_vars)


def fori_loop(lower: Any, upper: Any, body_fun: Any, init_val: Any) -> Any:
    return body_fun(lower, init_val)


def cond(pred: Any, true_fn: Any, false_fn: Any) -> Any:
    return _joined([true_fn(), false_fn()])


def switch(index: Any, branches: Any, *operands: Any) -> Any:
    return _joined([branch(*operands) for branch in branches])


def _first(xs: Any) -> Any:
    return keras.tree.map_structure(lambda x: None if x is None else x[0], xs)


def _length(xs: Any) -> int | None:
    return keras.tree.flatten(xs)[0].shape[0]


def _repeated(structure: Any, size: int | None) -> Any:
    """Repeat tensors along a new first axis."""

    def repeat(x: Any) -> Any:
        if isinstance(x, Symbol):
            return recorder().broadcast(x, (size, *x.shape))
        return ops.broadcast_to(x, (size or 1, *x.shape))

    return keras.tree.map_structure(lambda x: None if x is None else repeat(x), structure)


def _joined(outputs: list[Any]) -> Any:
    def join(first: Any, *others: Any) -> Any:
        for other in others:
            if isinstance(first, Symbol) or isinstance(other, Symbol):
                first = ops.add(first, other)
        return first

    return keras.tree.map_structure(join, *outputs)
