"""What a subclassed model is called with."""

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import keras

# Arguments of `call` that change nothing about what flows where.
_FLAGS = ("training", "mask")

Arguments = tuple[list[Any], dict[str, Any]]


def arguments_of(model: Any, inputs: Any = None) -> Iterator[Callable[[], Arguments]]:
    """Makers of symbolic arguments for `model.call`, to be tried in order.

    From `inputs` if they are given, else from the shapes that the model was built
    for, which do not tell dtypes. A maker raises `ValueError` with the reason why
    it knows none.
    """
    if inputs is not None:
        yield functools.partial(_given, model, inputs)
        return
    for dtype in (model.compute_dtype, "int32"):
        yield functools.partial(_built_for, model, dtype)


def _given(model: Any, inputs: Any) -> Arguments:
    positional = inputs if isinstance(inputs, tuple) else (inputs,)
    args = [keras.tree.map_structure(_symbol, argument) for argument in positional]
    return args, _required_training(model)


def _symbol(x: Any) -> Any:
    if x is None or isinstance(x, (bool, str)):
        return x
    if not hasattr(x, "shape"):
        x = keras.ops.convert_to_tensor(x)
    return keras.KerasTensor(tuple(x.shape), keras.backend.standardize_dtype(x.dtype))


def _built_for(model: Any, dtype: str) -> Arguments:
    config = model.get_build_config() or {}
    kwargs = _required_training(model)
    if "shapes_dict" in config:
        for key, shapes in config["shapes_dict"].items():
            kwargs[key.removesuffix("_shape")] = _symbols(shapes, dtype)
        _check_all_known(model, set(kwargs))
        return [], kwargs
    if config.get("input_shape") is None:
        raise ValueError("what it is called with is not known: pass `inputs`")
    _check_all_known(model, {*list(inspect.signature(model.call).parameters)[:1], *kwargs})
    return [_symbols(config["input_shape"], dtype)], kwargs


def _symbols(shapes: Any, dtype: str) -> Any:
    if isinstance(shapes, dict):
        return {key: _symbols(shape, dtype) for key, shape in shapes.items()}
    if shapes is None:
        return None
    shapes = tuple(shapes)
    if all(size is None or isinstance(size, int) for size in shapes):
        return keras.KerasTensor((None, *shapes[1:]), dtype)
    return [_symbols(shape, dtype) for shape in shapes]


def _check_all_known(model: Any, known: set[str]) -> None:
    """A second input that is optional may change what flows where."""
    for name, parameter in inspect.signature(model.call).parameters.items():
        if name in known or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        is_flag = name in _FLAGS or name.endswith("mask")
        if parameter.default is parameter.empty or (parameter.default is None and not is_flag):
            raise ValueError(f"what its argument {name!r} gets is not known: pass `inputs`")


def _required_training(model: Any) -> dict[str, Any]:
    parameter = inspect.signature(model.call).parameters.get("training")
    if parameter is None or parameter.default is not parameter.empty:
        return {}
    return {"training": False}
