"""Symbolic arguments for calling a model."""

import functools
import inspect
from collections.abc import Callable, Iterator

import keras

from keras_mimetic._graph.keras_internals import input_structure
from keras_mimetic._graph.symbol import Kwargs, Nested

# Arguments of `call` that do not change the graph.
_FLAGS = ("training", "mask")
# Batch size: the code of a model may need one.
BATCH = 2
# Sizes for axes of unknown length: of sequences, and of images.
LENGTH, SIDE = 16, 64

# Positional and keyword arguments, and what was assumed.
Arguments = tuple[list[Nested], Kwargs, str]


def arguments_of(model: keras.Layer, inputs: Nested = None) -> Iterator[Callable[[], Arguments]]:
    """Yield functions that make symbolic arguments for `model`, in the order to try them.

    They are made from `inputs`, or from the inputs of a functional model, or from the shapes
    that the model was built for, which come without dtypes. A function raises a
    `ValueError` with the reason if it cannot make any.
    """
    if inputs is not None:
        yield functools.partial(_given, model, inputs)
    elif is_functional(model):
        if any(None in x.shape[1:] for x in model.inputs):
            yield functools.partial(_own_inputs, model, sized=True)
        yield functools.partial(_own_inputs, model)
    else:
        for dtype in (model.compute_dtype, "int32"):
            yield functools.partial(_built_for, model, dtype)


def call_on_zeros(model: keras.Layer, inputs: Nested, why: str = "") -> None:
    """Raise unless a model takes zeros like `inputs`; `why` is the reason, if it is known."""

    def zeros(x: Nested) -> Nested:
        if not isinstance(x, keras.KerasTensor):
            return x
        return keras.ops.zeros(tuple(size or 1 for size in x.shape), x.dtype)

    try:
        args, kwargs, _ = _given(model, inputs)
        args, kwargs = keras.tree.map_structure(zeros, (args, kwargs))
        model(*args, **kwargs)
    except Exception as error:
        names = ", ".join(inspect.signature(model.call).parameters)
        raise ValueError(
            f"Argument `inputs` must be a valid input of the model, whose `call` takes ({names}). "
            f"Received: {_shown(inputs)} ({why or f'{type(error).__name__}: {error}'})"
        ) from error


def is_functional(layer: keras.Layer) -> bool:
    """Return whether a layer is a functional model, which has input tensors."""
    inputs = getattr(layer, "inputs", None) if isinstance(layer, keras.Model) else None
    if not isinstance(inputs, (list, tuple)) or not inputs:
        return False
    return all(isinstance(x, keras.KerasTensor) for x in inputs)


def _shown(inputs: Nested) -> str:
    if any(hasattr(leaf, "shape") for leaf in keras.tree.flatten(inputs)):
        inputs = keras.tree.map_structure(lambda x: getattr(x, "shape", x), inputs)
        return f"arrays of shapes {inputs}"
    text = " ".join(repr(inputs).split())
    return text if len(text) <= 80 else text[:77] + "..."


def _given(model: keras.Layer, inputs: Nested) -> Arguments:
    if _is_by_name(model, inputs):
        kwargs = {name: keras.tree.map_structure(_symbol, x) for name, x in inputs.items()}
        return [], {**_required_training(model), **kwargs}, ""
    positional = inputs if isinstance(inputs, tuple) else (inputs,)
    args = [keras.tree.map_structure(_symbol, argument) for argument in positional]
    return args, _required_training(model), ""


def _is_by_name(model: keras.Layer, inputs: Nested) -> bool:
    """Return whether `inputs` is a dict from names of arguments, and not an argument itself."""
    if not isinstance(inputs, dict) or not inputs or is_functional(model):
        return False
    return inputs.keys() <= inspect.signature(model.call).parameters.keys()


def _symbol(x: Nested) -> Nested:
    if x is None or isinstance(x, (bool, str)):
        return x
    if not hasattr(x, "shape"):
        x = keras.ops.convert_to_tensor(x)
    return keras.KerasTensor(tuple(x.shape), keras.backend.standardize_dtype(x.dtype))


def _own_inputs(model: keras.Layer, sized: bool = False) -> Arguments:
    def symbol(x: keras.KerasTensor) -> keras.KerasTensor:
        # The code of a model may need the size of every axis.
        unknown = (LENGTH if len(x.shape) < 4 else SIDE) if sized else None
        shape = tuple(size or (unknown if n else BATCH) for n, size in enumerate(x.shape))
        return keras.KerasTensor(shape, x.dtype, sparse=x.sparse)

    inputs = keras.tree.map_structure(symbol, input_structure(model))
    return [inputs], _required_training(model), ""


def _built_for(model: keras.Layer, dtype: str) -> Arguments:
    config = model.get_build_config() or {}
    kwargs = _required_training(model)
    if "shapes_dict" in config:
        for key, shapes in config["shapes_dict"].items():
            kwargs[key.removesuffix("_shape")] = _symbols(shapes, dtype)
        return [], kwargs, _check_all_known(model, set(kwargs))
    if config.get("input_shape") is None:
        raise ValueError("its input shape is unknown: pass `inputs`")
    parameters = list(inspect.signature(model.call).parameters)
    if "states" in parameters and getattr(model, "state_size", None) is not None:
        # One step of a recurrent cell.
        size = model.state_size
        sizes = size if isinstance(size, (list, tuple)) else [size]
        kwargs["states"] = [keras.KerasTensor((BATCH, n), dtype) for n in sizes]
    known = {*parameters[:1], *kwargs}
    assumed = _check_all_known(model, known)
    return [_symbols(config["input_shape"], dtype)], kwargs, assumed


def _symbols(shapes: Nested, dtype: str) -> Nested:
    if isinstance(shapes, dict):
        return {key: _symbols(shape, dtype) for key, shape in shapes.items()}
    if shapes is None:
        return None
    shapes = tuple(shapes)
    if all(size is None or isinstance(size, int) for size in shapes):
        return keras.KerasTensor((BATCH, *shapes[1:]) if shapes else (), dtype)
    return [_symbols(shape, dtype) for shape in shapes]


def _check_all_known(model: keras.Layer, known: set[str]) -> str:
    """Return the optional inputs that are assumed absent; raise if a required one is unknown."""
    assumed = []
    for name, parameter in inspect.signature(model.call).parameters.items():
        if name in known or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        if parameter.default is parameter.empty:
            raise ValueError(f"the value of its argument {name!r} is unknown: pass `inputs`")
        if parameter.default is None and name not in _FLAGS and not name.endswith("mask"):
            assumed.append(f"its argument {name!r}")
    return " and ".join(assumed)


def _required_training(model: keras.Layer) -> Kwargs:
    parameter = inspect.signature(model.call).parameters.get("training")
    if parameter is None or parameter.default is not parameter.empty:
        return {}
    return {"training": False}
