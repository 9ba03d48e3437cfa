"""What limits training: the data or the steps, each measured alone."""

import collections
import itertools
import time

import keras


class Repeated(keras.utils.PyDataset):
    """One batch again and again."""

    def __init__(self, batch, steps):
        super().__init__()
        self.batch, self.steps = batch, steps

    def __len__(self):
        return self.steps

    def __getitem__(self, index):
        return self.batch


def show(model, batches, batch_size, seconds=10.0):
    """Prints images a second of the batches alone and of training steps alone.

    Args:
        model: Compiled; it is trained by this.
        batches: Of training.
        batch_size: Images each.
        seconds: How long each takes at the most, about, beside its start.
    """
    endless = _endless(batches)
    batch = next(endless)
    data = rate(lambda count: collections.deque(itertools.islice(endless, count), 0), seconds)
    steps = rate(lambda count: model.fit(Repeated(batch, count), verbose=0), seconds)
    print(f"data alone: {data * batch_size:,.0f} images/s")
    print(f"steps alone: {steps * batch_size:,.0f} images/s (batches of {batch_size})")
    print("The smaller one limits training; they share the processor, if steps use it.")


def _endless(batches):
    while True:
        for number in range(len(batches)):
            yield batches[number]


def rate(work, seconds):
    """How many a second, from a run of at least a quarter of that time, behind a short one."""
    work(4)
    count, elapsed = 1, 0.0
    while elapsed < seconds / 4:
        count *= 2
        begin = time.perf_counter()
        work(count)
        elapsed = time.perf_counter() - begin
    return count / elapsed
