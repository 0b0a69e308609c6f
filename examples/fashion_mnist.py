"""Fashion-MNIST (Zalando, MIT licence) as Debian's package `dataset-fashion-mnist` installs it."""

import gzip
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from chipfit.examples import debian

PACKAGE = ("dataset-fashion-mnist", "usr/share/datasets/fashion-mnist", "CHIPFIT_FASHION_MNIST")
MEAN, DEVIATION = 0.286, 0.353  # of the training images, scaled to [0, 1]
PREFIX = {"train": "train", "test": "t10k"}
HEADER = {"images": 16, "labels": 8}  # bytes before the data in an IDX file


def _read(which: str, what: str, rank: int) -> np.ndarray:
    path = debian.folder(*PACKAGE) / f"{PREFIX[which]}-{what}-idx{rank}-ubyte.gz"
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=HEADER[what])


def split(which: str) -> tuple[Tensor, Tensor]:
    """The `train` (60,000) or `test` (10,000) split: normalised images [n, 1, 28, 28] and labels [n]."""
    images = torch.from_numpy(_read(which, "images", 3).copy()).view(-1, 1, 28, 28).float()
    labels = torch.from_numpy(_read(which, "labels", 1).astype(np.int64))
    return (images / 255 - MEAN) / DEVIATION, labels


def accuracy(predict: Callable[[Tensor], Tensor], batch: int = 500) -> float:
    """Share of the 10,000 test images that `predict` (images to logits) labels rightly."""
    images, labels = split("test")
    with torch.no_grad():
        hits = [
            (predict(x).argmax(1) == y).sum() for x, y in zip(images.split(batch), labels.split(batch), strict=True)
        ]
    return float(torch.stack(hits).sum()) / len(labels)
