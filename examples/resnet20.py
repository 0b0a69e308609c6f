"""ResNet-20 (width 16) for Fashion-MNIST; the checkpoint beside this file is made by `train_resnet20.py`."""

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from chipfit.examples import fashion_mnist
from chipfit.frontend.data import Data, Metric

CHECKPOINT = Path(__file__).with_name("resnet20.safetensors")
HELD_OUT = 2000  # images


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a skip (He et al. 2015, figure 2); a 1x1 projection where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        same = stride == 1 and inputs == outputs
        projection = (nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.skip = nn.Sequential() if same else nn.Sequential(*projection)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.skip(x))


class ResNet20(nn.Module):
    """Three stages of three blocks at widths 16, 32 and 64: images [batch, 1, 28, 28] to logits [batch, 10]."""

    def __init__(self, width: int = 16, blocks: int = 3, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(width)
        widths = [width * 2**stage for stage in range(3) for _ in range(blocks)]
        strides = [2 if stage and not block else 1 for stage in range(3) for block in range(blocks)]
        chain = zip([width, *widths], widths, strides, strict=False)
        self.blocks = nn.Sequential(*(BasicBlock(*shape) for shape in chain))
        self.head = nn.Linear(widths[-1], classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.bn(self.stem(x))))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


def model(weights: bool = True) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The trained network and one example image; without `weights` on the meta device."""
    with torch.device("cpu" if weights else "meta"):
        network, example = ResNet20(), torch.zeros(1, 1, 28, 28)
    if weights:
        network.load_state_dict(load_file(CHECKPOINT))
    return network.eval(), (example,)


def data() -> Data:
    """Training images without their labels, the last of them held out; quality is accuracy on the test split."""
    images, _ = fashion_mnist.split("train")
    examples = [(image,) for image in images.split(1)]
    metric = Metric("accuracy", unit="", higher_is_better=True, score=fashion_mnist.accuracy)
    return Data(examples[:-HELD_OUT], examples[-HELD_OUT:], metric)
