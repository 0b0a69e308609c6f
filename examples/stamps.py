"""Five hundred things on white, photographed or drawn: animals, food, tools, plants, vehicles and so on. They are the
stamps of Tux Paint (GPL-2), a paint program for children, as Debian's package `tuxpaint-stamps-default` installs them.
"""

import importlib.util
import random
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from chipfit.errors import UserError
from chipfit.examples import debian

PACKAGE = ("tuxpaint-stamps-default", "usr/share/tuxpaint/stamps", "CHIPFIT_STAMPS")
SIGNS = "symbols"  # a folder of stamps that show no thing
HELD_OUT_EVERY = 8
WIDTHS = 0.5, 1.0  # parts of an image's width that a thing takes


def files() -> list[Path]:
    """In an order that mixes their kinds; without the mirrored ones that some have beside them."""
    if importlib.util.find_spec("PIL") is None:
        raise UserError("The stamps can't be read: run `pip install pillow==12.0.0`.")
    folder = debian.folder(*PACKAGE)
    found = [file.relative_to(folder) for file in folder.rglob("*.png") if not file.stem.endswith("_mirror")]
    things = [folder / file for file in sorted(found) if file.parts[0] != SIGNS]
    random.Random(0).shuffle(things)
    return things


def examples(pixels: int) -> tuple[list[Tensor], list[Tensor]]:
    """Images [1, 3, pixels, pixels] in [0, 255] to train on, and images of other things to judge by."""
    chance, found = random.Random(0), files()
    images = [image(file, pixels, chance) for file in found]
    return [one for place, one in enumerate(images) if place % HELD_OUT_EVERY], images[::HELD_OUT_EVERY]


def image(file: Path, pixels: int, chance: random.Random) -> Tensor:
    """A thing somewhere on white, [1, 3, pixels, pixels] in [0, 255], as large as `chance` will, mirrored or not."""
    from PIL import Image, ImageOps  # an optional package

    ground = Image.new("RGB", (pixels, pixels), "white")
    with Image.open(file) as stamp:
        scale = pixels * chance.uniform(*WIDTHS) / max(stamp.size)
        width, height = (max(1, round(length * scale)) for length in stamp.size)
        thing = stamp.convert("RGBA").resize((width, height), Image.Resampling.BILINEAR)
    thing = ImageOps.mirror(thing) if chance.random() < 0.5 else thing
    ground.paste(thing, (chance.randint(0, pixels - width), chance.randint(0, pixels - height)), thing)
    return torch.from_numpy(np.asarray(ground, np.float32).transpose(2, 0, 1).copy())[None]
