"""Checkpoints of a run: everything that training goes on from, as one file, whole or not there."""

import errno
import json
import os
import pathlib

import keras
import numpy as np

from common import folders, lock, script

NAME = "checkpoint.npz"


class CheckpointError(script.Stop):
    """A checkpoint could not be written or does not fit; says why and what there is."""


def save(folder, model, state, settings, *, write=True):
    """Writes the variables of a model and of its optimizer, with the state of the run.

    The file of before is there until the new one is whole and on the disk.

    Args:
        folder: Of the run.
        model: Compiled and trained. Its variables are weights, statistics and the
            states of its random generators (layers need seeds of their own: without one,
            torch draws from its global generator); its optimizer's are moments, averages of
            the weights, gathered gradients, the step.
        state: Anything that JSON can hold.
        settings: What has to be equal where the run goes on.
        write: Whether this process writes; of several that share a model, all take part.
    """
    values = [_to_numpy(variable) for variable in _variables(model)]
    if not write:
        return
    # Order and shapes tell variables apart; their paths count the models of a process.
    about = {"state": state, "settings": settings, "shapes": [value.shape for value in values]}
    arrays = {f"{number:05d}": value for number, value in enumerate(values)}
    path = pathlib.Path(folder) / NAME
    part = path.with_name(NAME + ".part")
    # Two writers of one file would leave it broken.
    lock.take(path.parent)
    try:
        with part.open("wb") as file:
            np.savez(file, about=np.array(json.dumps(about)), **arrays)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        part.unlink(missing_ok=True)
        size = sum(value.nbytes for value in values)
        kept = "the one before is whole" if path.exists() else "there is none yet"
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise CheckpointError(
            f"The checkpoint {path} ({size / 1e6:.0f} MB) could not be written: "
            f"{'no space left' if full else error}. {kept[0].upper() + kept[1:]}; make room and go "
            "on with --resume."
        ) from error


def exists(folder):
    """Whether there is a checkpoint in a folder."""
    return folders.has_file(pathlib.Path(folder) / NAME)


def restore(folder, model, settings):
    """Gives a compiled model the values of the checkpoint in a folder; the state of the run.

    Raises:
        CheckpointError: If it cannot be read, is of other settings, or of another model.
            Nothing is written then.
    """
    path = pathlib.Path(folder) / NAME
    variables = _variables(model)
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            _check(path, about, settings, variables)
            values = [file[f"{number:05d}"] for number in range(len(variables))]
        for value, variable in zip(values, variables, strict=True):
            _check_array(path, value, variable)
    except CheckpointError:
        raise
    except (Exception, MemoryError) as error:
        raise CheckpointError(
            f"The checkpoint {path} cannot be read ({type(error).__name__}: {error}). Move it away "
            "to begin anew."
        ) from error
    for value, variable in zip(values, variables, strict=True):
        variable.assign(keras.ops.convert_to_tensor(value, variable.dtype))
    return about["state"]


def _check(path, about, settings, variables):
    if not isinstance(about, dict) or not {"state", "settings", "shapes"} <= {*about}:
        raise ValueError("it does not say of which run it is")
    if listed := folders.different_settings(about["settings"], settings):
        raise CheckpointError(f"The checkpoint {path} is of another run ({listed}).")
    shapes = [tuple(shape) for shape in about["shapes"]]
    if len(shapes) != len(variables):
        raise CheckpointError(
            f"The checkpoint {path} is of another model: it has {len(shapes)} variables, this one "
            f"{len(variables)}."
        )
    for shape, variable in zip(shapes, variables, strict=True):
        if shape != tuple(variable.shape):
            raise CheckpointError(
                f"The checkpoint {path} is of another model: {variable.path} is {shape} there, "
                f"{tuple(variable.shape)} now."
            )


def _check_array(path, value, variable):
    numeric = value.dtype.kind in "biuf" or value.dtype.kind == "V"  # V: bfloat16
    if value.shape != tuple(variable.shape) or not numeric:
        raise CheckpointError(
            f"The checkpoint {path} is of another model: {variable.path} is {value.shape} "
            f"{value.dtype} there, {tuple(variable.shape)} {variable.dtype} now."
        )


def check_state(state, epochs, columns):
    """Raises `CheckpointError` unless a state has a number of epochs with a row for each.

    Args:
        state: What `restore` gave.
        epochs: The most that there can be.
        columns: What each row must have, besides `epoch`.
    """
    try:
        epoch, history = state["epoch"], state["history"]
        rows = [{name: float(row[name]) for name in ("epoch", *columns)} for row in history]
        whole = type(epoch) is int and 0 < epoch <= epochs
        if not whole or [row["epoch"] for row in rows] != [*range(1, epoch + 1)]:
            raise ValueError(f"it is of epoch {epoch!r} with {len(rows)} rows of {epochs}")
        if any({*row} != {*history[0]} for row in history):
            raise ValueError("the rows of its history differ in their columns")
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise CheckpointError(
            f"The state in the checkpoint is not that of a run ({type(error).__name__}: {error}). "
            "Move it away to begin anew."
        ) from error


def _variables(model):
    """Those of the model, then those of its optimizer."""
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


def _sync_folder(folder):
    """Makes the renaming in a folder last through a loss of power, where that can be done."""
    if os.name == "posix":
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
