"""What a long run leaves at each epoch's end: checkpoint, figures, picture, time left."""

import math
import time

import keras

from common import folders, pictures, script
from imagenet import checkpoint


class DivergedError(script.Stop):
    """The loss is no number any more; says what is left of the run."""


# What the picture, the time left and the last line need of each epoch.
COLUMNS = (
    *(kind + name for kind in ("", "val_") for name in ("cross_entropy", "top1", "top5")),
    "seconds",
    "left_out",
)


class RunLog(keras.callbacks.Callback):
    """Writes the checkpoint of each epoch, then history.csv and curves.png from its state.

    A run that is killed between the two writes them when it goes on.

    Args:
        folder: Of the run.
        title: Of the picture.
        settings: What has to be equal where the run goes on.
        history: A row for each epoch before.
        broken: A list that grows by the images that cannot be decoded, as they are met.
        validated: A function of no argument: the part of validation images that was read.
        write: Whether this process writes, of several that share the model.
    """

    def __init__(self, folder, title, settings, *, history, broken=(), validated=None, write=True):
        super().__init__()
        self.folder, self.title, self.settings = folder, title, settings
        self.history, self.broken, self.writes = history, broken, write
        self.validated = validated or (lambda: 1.0)

    def on_train_begin(self, logs=None):
        if self.history:
            self._show()

    def on_epoch_begin(self, epoch, logs=None):
        if self.history and self.writes:
            self._print_time_left()
        self._began, self._before = time.perf_counter(), len(self.broken)

    def on_epoch_end(self, epoch, logs=None):
        figures = {name: float(value) for name, value in logs.items()}
        if "val_loss" in figures:
            # Keras divided by the images that were left out, too.
            figures["val_loss"] /= self.validated()
        for name, value in figures.items():
            if not math.isfinite(value):
                kept = f"the checkpoint is that of epoch {epoch}" if epoch else "there is none yet"
                raise DivergedError(
                    f"The {name} became {value} in epoch {epoch + 1}, which is not saved; {kept}. "
                    "Try a smaller --learning-rate, a longer warm-up or --clip."
                )
        row = {"epoch": epoch + 1, **figures}
        row["learning_rate"] = float(self.model.optimizer.learning_rate)
        row["seconds"] = round(time.perf_counter() - self._began, 2)
        row["left_out"] = len(self.broken) - self._before
        state = {"epoch": epoch + 1, "history": [*self.history, row]}
        checkpoint.save(self.folder, self.model, state, self.settings, write=self.writes)
        self.history.append(row)
        self._show()

    def _show(self):
        if self.writes:
            folders.write_rows(self.folder / "history.csv", self.history)
            draw(self.folder / "curves.png", self.history, self.title)

    def _print_time_left(self):
        row, epochs = self.history[-1], self.params["epochs"]
        # The first epoch of a process compiles; the last one says most.
        left = (epochs - row["epoch"]) * row["seconds"]
        hours, minutes = divmod(round(left / 60), 60)
        print(f"Epoch {row['epoch']} of {epochs} is saved; about {hours} h {minutes:02d} min left.")


def draw(path, history, title):
    """Draw loss and accuracies by epoch."""
    epochs = [row["epoch"] for row in history]
    figure, (left, right) = pictures.panels(2, 4.5, 4)
    panels = (
        (left, "cross-entropy", ("cross_entropy",), 1),
        (right, "accuracy %", ("top1", "top5"), 100),
    )
    for axis, label, names, scale in panels:
        for color, name in enumerate(names):
            for kind, line in (("", "--"), ("val_", "-")):
                values = [scale * row[kind + name] for row in history]
                where = "validation" if kind else "training"
                axis.plot(epochs, values, line, color=f"C{color}", label=f"{name}, {where}")
        axis.set(xlabel="epoch", ylabel=label)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False, fontsize=8)
    last = history[-1]
    left.set_title(
        f"validation {last['val_cross_entropy']:.3f} after epoch {last['epoch']}", fontsize=9
    )
    right.set_title(f"top-1 {100 * last['val_top1']:.1f} % after epoch {last['epoch']}", fontsize=9)
    pictures.save(figure, path, title)
