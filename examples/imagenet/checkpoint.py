"""Checkpoints: all that training continues from, in one file that is complete or missing."""

import json
import pathlib

import keras
import numpy as np

from common import folders, script

NAME = "checkpoint.npz"


class CheckpointError(script.Stop):
    """A checkpoint cannot be read or does not fit; says why."""


def save(folder, model, state, settings, *, write=True):
    """Write the variables of a model and of its optimizer, with the state of the run.

    Args:
        folder: Output folder of the run.
        model: A compiled, trained model. Its variables are weights, statistics and the states of
            random generators (layers need seeds of their own: without one, torch samples from its
            global generator). Its optimizer's are moments, averages of the weights, gathered
            gradients, and the step.
        state: Anything that JSON can hold.
        settings: Settings that must match when the run resumes.
        write: Whether this process writes. All that share a model take part.
    """
    values = [_to_numpy(variable) for variable in _variables(model)]
    if not write:
        return
    # Order and shapes identify variables. Their paths count the models of a process.
    about = {"state": state, "settings": settings}
    arrays = {f"{number:05d}": value for number, value in enumerate(values)}
    with folders.replacing(pathlib.Path(folder, NAME)) as part, part.open("wb") as file:
        np.savez(file, about=np.array(json.dumps(about)), **arrays)


def exists(folder):
    """Return whether there is a checkpoint in a folder."""
    return pathlib.Path(folder, NAME).exists()


def restore(folder, model, settings):
    """Set the variables of a compiled model to those of a checkpoint and return the run's state.

    Raises:
        CheckpointError: If it cannot be read, or was written with other settings or for another
            model. No variable changes then.
    """
    path = pathlib.Path(folder, NAME)
    variables = _variables(model)
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            different = folders.different_settings(dict(about["settings"]), settings)
            state = about["state"]
            names = sorted(name for name in file.files if name != "about")
            values = [file[name] for name in names]
    except Exception as error:
        raise CheckpointError(
            f"The checkpoint {path} cannot be read ({type(error).__name__}: {error}). Move it away "
            "to start again."
        ) from error
    if different:
        raise CheckpointError(f"The checkpoint {path} is of another run ({different}).")
    there = [f"{value.shape} {value.dtype}" for value in values]
    now = [f"{tuple(v.shape)} {keras.backend.standardize_dtype(v.dtype)}" for v in variables]
    if there != now:
        pairs = zip(there, now, strict=False)
        different = next((f"{a} there, {b} now" for a, b in pairs if a != b), "")
        counts = f"{len(there)} variables there, {len(now)} now"
        raise CheckpointError(f"The checkpoint {path} is of another model: {different or counts}.")
    for value, variable in zip(values, variables, strict=True):
        variable.assign(keras.ops.convert_to_tensor(value, variable.dtype))
    return state


def _variables(model):
    return [*model.variables, *model.optimizer.variables]


def _to_numpy(variable):
    value = variable.value if hasattr(variable, "value") else variable
    if keras.backend.backend() == "jax" and not (
        value.is_fully_addressable or value.is_fully_replicated
    ):
        # Parts of it are on other hosts.
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(value, tiled=True))
    return keras.ops.convert_to_numpy(variable)
