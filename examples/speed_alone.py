"""What limits training: the data or the steps, each measured alone."""

import time

import keras


class _Repeated(keras.utils.PyDataset):
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
        seconds: About how long each is measured, after a start.
    """
    data = _rate(lambda count: _take(batches, count), seconds)
    batch = batches[0]
    steps = _rate(lambda count: model.fit(_Repeated(batch, count), verbose=0), seconds)
    print(f"data alone: {data * batch_size:,.0f} images/s")
    print(f"steps alone: {steps * batch_size:,.0f} images/s (batches of {batch_size})")
    print("The smaller one limits training; they share the processor, if steps use it.")


def _take(batches, count):
    for number in range(count):
        batches[number % len(batches)]


def _rate(work, seconds):
    """How many a second, from a run that takes about so long. Its start is not counted."""
    work(1)
    count, elapsed = 1, 0.0
    while elapsed < seconds / 4:
        count *= 2
        begin = time.perf_counter()
        work(count)
        elapsed = time.perf_counter() - begin
    return count / elapsed
