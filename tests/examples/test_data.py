"""Images, batches and files of results that the examples share."""

import numpy as np
import pytest

from common import data, folders, report
from common.report import difference


def saved(path, **changes):
    """Write an .npz file of six training and three test images of 8x8 pixels."""
    arrays = {
        "x_train": np.zeros((6, 8, 8), np.uint8),
        "y_train": np.arange(6)[:, None],
        "x_test": np.zeros((3, 8, 8), np.uint8),
        "y_test": np.arange(3),
    }
    np.savez(path, **{**arrays, **changes})
    return str(path)


def test_npz_files(tmp_path):
    loaded = data.load(saved(tmp_path / "good.npz"))
    assert (loaded.name, loaded.classes, loaded.shape) == ("good", 6, (8, 8, 1))
    assert loaded.train[1].dtype == np.int32
    with pytest.raises(SystemExit, match="must hold uint8 images. Received: float64"):
        data.load(saved(tmp_path / "float.npz", x_train=np.zeros((6, 8, 8))))
    np.savez(tmp_path / "few.npz", x_train=np.zeros(3))
    for name in ("few", "nowhere"):
        with pytest.raises(SystemExit, match=f"{name}.npz must be an .npz file with the arrays"):
            data.load(str(tmp_path / f"{name}.npz"))


def test_splits_are_disjoint_and_the_same_for_every_size():
    whole, part = data.load("digits"), data.load("digits", train_size=100)
    np.testing.assert_array_equal(whole.train[0][:100], part.train[0])
    np.testing.assert_array_equal(whole.validation[0], part.validation[0])
    sizes = [len(split[0]) for split in (whole.train, whole.validation, whole.test)]
    assert sizes == [1293, 144, 360]


def test_batches_are_functions_of_seed_epoch_and_index():
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (50, 32, 32, 3)).astype("uint8")
    labels = np.arange(50)

    def epochs(seed):
        batches = data.Batches(images, labels, batch_size=16, seed=seed, augment=True)
        for _ in range(2):
            assert len(batches) == 3
            yield [batches[index] for index in (0, 1, 2)]
            batches.on_epoch_end()

    first, again, other = (list(epochs(seed)) for seed in (0, 0, 1))
    for (x, y), (x2, y2) in zip((*first[0], *first[1]), (*again[0], *again[1]), strict=True):
        np.testing.assert_array_equal(x, x2)
        np.testing.assert_array_equal(y, y2)
    order = [np.concatenate([y for _, y in epoch]) for epoch in (*first, *other)]
    assert len({tuple(labels) for labels in order}) == 4
    assert all(len(set(labels)) == 48 for labels in order)


def test_crop_and_flip():
    images = np.arange(1, 1 + 6 * 8 * 8 * 3).reshape(6, 8, 8, 3)
    same = data.crop_and_flip(images, np.random.default_rng(0), padding=0)
    for before, after in zip(images, same, strict=True):
        assert np.array_equal(after, before) or np.array_equal(after, before[:, ::-1])
    moved = data.crop_and_flip(images, np.random.default_rng(0), padding=4)
    assert moved.shape == images.shape
    for before, after in zip(images, moved, strict=True):
        # Without padding, a window of the image.
        seen = after[after > 0]
        assert set(seen) <= set(before.ravel())
        assert seen.size >= 4 * 4 * 3


ROW = {
    **{"model": "vit", "init": "all", "learning_rate": 0.002, "seed": 0},
    **{"validation_accuracy": 0.5, "test_accuracy": 0.5, "seconds": 1.0, "curve": "0.5"},
}


def test_rows_are_read_back_as_they_were(tmp_path):
    runs = folders.Runs(tmp_path, {"a": 1})
    for seed in range(3):
        runs.add({**ROW, "seed": seed, "learning_rate": 4e-3})
    text = runs.path.read_text()
    again = folders.Runs(tmp_path, {"a": 1})
    again.add({**ROW, "seed": 3, "learning_rate": 4e-3})
    assert again.path.read_text().startswith(text)
    assert [row["seed"] for row in folders.Runs(tmp_path).rows] == [0, 1, 2, 3]
    with pytest.raises(SystemExit, match=r"other settings \(a: 1 there, 2 now\)"):
        folders.Runs(tmp_path, {"a": 2})


def test_tables_pair_seeds_at_the_rate_chosen_by_validation(tmp_path):
    runs = folders.Runs(tmp_path, {"epochs": 1})
    test = {"default": [0.50, 0.60, 0.70], "mlp": [0.52, 0.61, 0.73]}
    for init, accuracies in test.items():
        for seed, accuracy in enumerate(accuracies):
            for rate, validation in ((0.1, 0.4), (0.2, 0.5)):
                # The test split would choose the other rate.
                results = {
                    "validation_accuracy": validation,
                    "test_accuracy": accuracy if rate == 0.2 else 0.99,
                }
                runs.add({**ROW, "init": init, "seed": seed, "learning_rate": rate, **results})
    # A seed that is not asked for, and would choose the other rate too.
    results = {"validation_accuracy": 1.0, "test_accuracy": 1.0}
    runs.add({**ROW, "init": "mlp", "seed": 3, "learning_rate": 0.1, **results})
    runs = folders.Runs(tmp_path, {"epochs": 1})  # read back
    pairs = [("vit", "default"), ("vit", "mlp")]
    best = report.best_rates(runs, pairs, [0.1, 0.2], range(3))
    text = report.table(runs, best, range(3), {"accuracy %": "test_accuracy"}, "title")
    assert "| vit | default | 0.2 | 60.00 ± 10.00 |  | 3 |" in text
    # By hand: differences 2, 1, 3; mean 2, std 1, t(2) = 4.303.
    assert "| vit | mlp | 0.2 | 62.00 ± 10.54 | +2.00 [-0.48, +4.48] | 3 |" in text


def test_contrasts_need_both_inits(tmp_path):
    runs = folders.Runs(tmp_path, {"epochs": 1})
    test = {"default": [0.5, 0.6], "control": [0.50, 0.58], "spatial": [0.53, 0.60]}
    for init, accuracies in test.items():
        for seed, accuracy in enumerate(accuracies):
            results = {"validation_accuracy": 0.5, "test_accuracy": accuracy}
            runs.add({**ROW, "init": init, "seed": seed, "learning_rate": 0.1, **results})
    best = {("vit", init): 0.1 for init in test}
    arguments = (runs, best, range(2), {"accuracy %": "test_accuracy"}, "title")
    text = report.table(*arguments, contrasts=[("spatial", "control"), ("all", "spatial")])
    # By hand: 3 and 2; mean 2.5, std 0.707, t(1) = 12.706.
    assert "| vit | spatial over control | +2.50 [-3.85, +8.85] | 2 |" in text
    assert "all over spatial" not in text
    assert "spatial over control" not in report.table(*arguments)


def test_differences_are_paired():
    # By hand: 2, 3, 1; mean 2, std 1, t = 2 sqrt(3) with two degrees of freedom.
    seen = difference([3, 5, 4], [1, 2, 3])
    assert seen.text() == "+2.00 [-0.48, +4.48]"
    assert seen.p == pytest.approx(0.0742, abs=1e-4)
    one = difference([0.5], [0.25])
    assert (one.text(), one.has_interval) == ("+0.25", False)
    same = difference([0.5, 0.75], [0.25, 0.5])
    assert same.text() == "+0.25 [+0.25, +0.25]"
    assert np.isnan(same.p)
