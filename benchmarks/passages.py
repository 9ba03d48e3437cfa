"""Write a text classification task for compare.py: tell which package a passage is from.

    python benchmarks/passages.py passages.npz
    python benchmarks/compare.py --dataset passages.npz --augment off --model distilbert

A passage is 64 bytes of the docstrings of an installed package, of which each paragraph is taken
once, 20,000 for training and 9,000 for the test, which come from the last fifth of each package's
text. Classes are equally large, up to chance.
"""

import argparse
import pathlib

import numpy as np

from language_once import collect

PACKAGES = ("numpy", "scipy", "networkx", "sklearn", "pandas", "matplotlib")
LENGTH = 64
COUNTS = {"train": 20_000, "test": 9_000}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("path", type=pathlib.Path, help="the file to write")
    path = parser.parse_args(argv).path
    texts = []
    for name in PACKAGES:
        text, version = collect((name,))
        texts.append(np.frombuffer(text.encode(), np.uint8))
        print(f"{version}: {len(texts[-1]) / 1e6:.1f} MB")
    ends = [len(text) * 4 // 5 for text in texts]
    splits = {
        "train": [text[:end] for text, end in zip(texts, ends, strict=True)],
        "test": [text[end:] for text, end in zip(texts, ends, strict=True)],
    }
    arrays = {}
    for split, parts in splits.items():
        count = min(map(len, parts)) // LENGTH
        passages = [part[: count * LENGTH].reshape(count, LENGTH) for part in parts]
        order = np.random.default_rng(0).permutation(count * len(parts))[: COUNTS[split]]
        arrays[f"x_{split}"] = np.concatenate(passages)[order]
        arrays[f"y_{split}"] = np.repeat(np.arange(len(parts)), count)[order]
    np.savez_compressed(path, **arrays)


if __name__ == "__main__":
    main()
