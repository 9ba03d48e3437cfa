"""Text for language models: its characters, what is held out, and batches of windows.

The English that comes with Python differs from version to version, hence `Text.digest`.
"""

import ast
import dataclasses
import hashlib
import pathlib
import sys
import sysconfig

import keras
import numpy as np

from common import script

# Of the text, from its end: what chooses learning rates, and after it what is reported.
VALIDATION_PART, TEST_PART = 0.05, 0.1
# Windows that are judged are as many times this, and never more than the second.
JUDGED_BATCH, _JUDGED = 64, 1024


class TextError(script.Stop):
    """The text is not there, or too short; says what to do."""


@dataclasses.dataclass(frozen=True)
class Text:
    """A text as numbers of its characters: int32 arrays for training, validation and test."""

    name: str
    characters: str
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    digest: str

    def decode(self, tokens):
        """The characters of an array of numbers."""
        return "".join(self.characters[token] for token in tokens)


def load(name, context):
    """Loads a text and splits it, in its order, into training, validation and test.

    Args:
        name: "topics", "docstrings" or the path of a text file in UTF-8.
        context: Characters of a window, of which each part must have one.
    """
    source = SOURCES.get(name)
    text = _paragraphs_once(source()) if source else _file(pathlib.Path(name))
    characters = "".join(sorted(set(text)))
    numbers = {character: number for number, character in enumerate(characters)}
    tokens = np.array([numbers[character] for character in text], np.int32)
    test = len(tokens) - round(TEST_PART * len(tokens))
    validation = test - round(VALIDATION_PART * len(tokens))
    parts = np.split(tokens, (validation, test))
    if min(map(len, parts)) <= context:
        raise TextError(
            f"{name} has {len(text)} characters. It takes more than "
            f"{round(context / VALIDATION_PART)}, for a window of {context} in the "
            f"{100 * VALIDATION_PART:g} % that are kept for validation."
        )
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Text(name, characters, *parts, digest)


def windows(tokens, starts, context):
    """Inputs and targets, the characters after them, each (len(starts), context)."""
    found = tokens[np.add.outer(starts, np.arange(context + 1))]
    return found[:, :-1], found[:, 1:]


def judged(tokens, context):
    """Windows spread evenly over a text that is held out, without overlap: always the same."""
    count = min(_JUDGED, (len(tokens) - 1) // context)
    if count > JUDGED_BATCH:
        # A last, smaller batch would be one more program to compile.
        count -= count % JUDGED_BATCH
    starts = np.linspace(0, len(tokens) - 1 - context, count).astype(int)
    return windows(tokens, starts, context)


class Batches(keras.utils.PyDataset):
    """Windows at random places, as a function of (seed, epoch, batch)."""

    def __init__(self, tokens, *, context, batch_size, steps, seed):
        super().__init__()
        self._tokens, self._context = tokens, context
        self._batch_size, self._steps, self._seed = batch_size, steps, seed
        self._epoch = 0

    def __len__(self):
        return self._steps

    def __getitem__(self, index):
        # The same windows whatever the number of steps in an epoch.
        rng = np.random.default_rng([self._seed, self._epoch * self._steps + index])
        starts = rng.integers(len(self._tokens) - self._context, size=self._batch_size)
        return windows(self._tokens, starts, self._context)

    def on_epoch_end(self):
        self._epoch += 1


def _topics():
    """The pages of Python's `help`, from its language reference."""
    from pydoc_data import topics

    return "\n\n".join(topics.topics.values())


def _docstrings():
    """Docstrings of the standard library's modules, read in their source."""
    root = pathlib.Path(sysconfig.get_path("stdlib"))
    found = []
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[0] not in sys.stdlib_module_names or {"test", "tests"} & {*parts}:
            continue
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                found.append(ast.get_docstring(node) or "")
    return "\n\n".join(found)


SOURCES = {"topics": _topics, "docstrings": _docstrings}


def _paragraphs_once(text):
    """Without those that came before, so that what is held out was not trained on."""
    paragraphs = (part.strip("\n") for part in text.split("\n\n"))
    return "\n\n".join(dict.fromkeys(part for part in paragraphs if part.strip())) + "\n"


def _file(path):
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is not a regular file")  # A read from a pipe would never end.
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TextError(
            f"The text {str(path)!r} could not be read: give {', '.join(SOURCES)} or the path of "
            f"a text file in UTF-8. ({type(error).__name__}: {error})"
        ) from error
