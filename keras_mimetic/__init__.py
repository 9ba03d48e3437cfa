"""Mimetic initialization for Keras 3: initial weights with the structure of trained ones."""

import importlib
from typing import TYPE_CHECKING, Any

try:
    import keras  # noqa: F401
except ModuleNotFoundError as error:
    # What is missing, or part of it.
    backend = (error.name or "").partition(".")[0]
    if backend not in ("jax", "tensorflow", "torch"):
        raise
    raise ModuleNotFoundError(
        f"Keras's backend is {backend!r}, which is not installed. Install it, "
        f"pip install {backend}, or choose another before Keras is imported: "
        "set the environment variable KERAS_BACKEND to jax, tensorflow or torch.",
        name=error.name,
    ) from error

from keras_mimetic import initializers, layers
from keras_mimetic._checks import did_you_mean

if TYPE_CHECKING:
    from keras_mimetic import callbacks, structures
    from keras_mimetic._initialize import initialize
    from keras_mimetic._measure import measure
    from keras_mimetic._measurements import Measurement, Measurements, Skipped
    from keras_mimetic._report import Report, WeightChange
    from keras_mimetic._reset import reset

__version__ = "0.1.0"

__all__ = [
    "Measurement",
    "Measurements",
    "Report",
    "Skipped",
    "WeightChange",
    "__version__",
    "callbacks",
    "initialize",
    "initializers",
    "layers",
    "measure",
    "reset",
    "structures",
]

# Layers and initializers are imported with the package, since Keras loads models with them by
# name. The rest follows models through and is imported when it is first asked for.
_MODULES = {
    "Measurement": "_measurements",
    "Measurements": "_measurements",
    "Report": "_report",
    "Skipped": "_measurements",
    "WeightChange": "_report",
    "callbacks": "callbacks",
    "initialize": "_initialize",
    "measure": "_measure",
    "reset": "_reset",
    "structures": "structures",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{_hint(name)}")
    module = importlib.import_module(f"{__name__}.{_MODULES[name]}")
    value = module if name == _MODULES[name] else getattr(module, name)
    globals()[name] = value
    return value


def _hint(name: str) -> str:
    if name.startswith("_"):
        return ""
    for part in ("initializers", "layers", "callbacks", "structures"):
        module = importlib.import_module(f"{__name__}.{part}")
        if name in module.__all__:
            return f". It is {module.__name__}.{name}"
    return did_you_mean(name, __all__)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
