"""Sequences that can be answered only by recalling what stood before, made up as needed.

- copy: symbols, a mark, and then the same symbols again.
- recall: pairs of a key and its value, and then all keys in another order: at each, its
  value (multi-query associative recall, Arora et al., 2023, arXiv:2312.04927).

Length is the number of symbols, or of pairs. Only what has to be recalled counts in loss and
accuracy: its weight is 1, that of the rest 0.
"""

import keras
import numpy as np

# Numbers of tokens: symbols; keys and values.
_SYMBOLS, _KEYS, _VALUES = 14, 32, 16


def copy(rng, length, count):
    """Tokens, answers and their weights, each (count, 2 length)."""
    symbols = 1 + rng.integers(_SYMBOLS, size=(count, length))
    mark = np.zeros((count, 1), int)
    # Each symbol is seen after it has been answered.
    tokens = np.concatenate((symbols, mark, symbols[:, :-1]), axis=1)
    return tokens, *_answers(symbols, length)


def recall(rng, length, count):
    """Tokens, answers and their weights, each (count, 3 length)."""
    keys = rng.random((count, _KEYS)).argsort(axis=1)[:, :length]
    values = _KEYS + rng.integers(_VALUES, size=(count, length))
    order = rng.random((count, length)).argsort(axis=1)
    pairs = np.stack((keys, values), axis=2).reshape(count, 2 * length)
    tokens = np.concatenate((pairs, np.take_along_axis(keys, order, axis=1)), axis=1)
    return tokens, *_answers(np.take_along_axis(values, order, axis=1), 2 * length)


def _answers(wanted, before):
    """Answers after so many tokens that ask for none."""
    nothing = np.zeros((len(wanted), before))
    answers = np.concatenate((nothing.astype(int), wanted), axis=1)
    return answers, np.concatenate((nothing, np.ones(wanted.shape)), axis=1).astype("float32")


# What makes the sequences, how many tokens there are, and the longest length.
TASKS = {"copy": (copy, 1 + _SYMBOLS, 10**6), "recall": (recall, _KEYS + _VALUES, _KEYS)}


def make(task, length, count, seed):
    """Sequences of a task: int32 tokens, int32 answers, float32 weights."""
    tokens, answers, weights = TASKS[task][0](np.random.default_rng(seed), length, count)
    return tokens.astype("int32"), answers.astype("int32"), weights


class Training(keras.utils.PyDataset):
    """New sequences in every batch, as a function of (seed, epoch, batch).

    The lengths of the batches are in turn a quarter, a half, three quarters and all of
    `length`: few, as each is compiled, and first two that differ, by which Keras sees on
    TensorFlow that lengths do.
    """

    def __init__(self, task, length, batch_size, steps, seed):
        super().__init__()
        self._task, self._batch_size, self._steps, self._seed = task, batch_size, steps, seed
        self._lengths = sorted({max(1, length * part // 4) for part in (1, 2, 3, 4)})
        self._epoch = 0

    def __len__(self):
        return self._steps

    def __getitem__(self, index):
        length = self._lengths[index % len(self._lengths)]
        # A 0 before, since validation and test have 1 and 2, and NumPy takes [1, 0, 0] for 1.
        seed = [0, self._seed, self._epoch, index]
        return make(self._task, length, self._batch_size, seed)

    def on_epoch_end(self):
        self._epoch += 1
