"""MobileNetV2 (Sandler et al. 2018, table 2) at 224 pixels with seeded random weights: for speed, not for quality."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""Expansion, channels, blocks and first stride of each stage."""
STEM, HEAD, CLASSES = 32, 1280, 1000  # channels


class ConvNorm(nn.Sequential):
    """Convolution, BatchNorm, and ReLU6 where `active`."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, active: bool = True
    ) -> None:
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        super().__init__(conv, nn.BatchNorm2d(outputs), nn.ReLU6() if active else nn.Identity())


class InvertedResidual(nn.Module):
    """Expand, filter each channel, project linearly; a skip where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        expand = [ConvNorm(inputs, hidden, 1)] if expansion > 1 else []
        filtered = ConvNorm(hidden, hidden, 3, stride, groups=hidden)
        self.branch = nn.Sequential(*expand, filtered, ConvNorm(hidden, outputs, 1, active=False))
        self.keeps_shape = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.branch(x)
        return x + y if self.keeps_shape else y


class MobileNetV2(nn.Module):
    """Images [batch, 3, 224, 224] to logits [batch, 1000]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(3, STEM, 3, stride=2)
        blocks, width = [], STEM
        for expansion, outputs, count, stride in STAGES:
            for position in range(count):
                blocks.append(InvertedResidual(width, outputs, 1 if position else stride, expansion))
                width = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = ConvNorm(width, HEAD, 1)
        self.classifier = nn.Linear(HEAD, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.blocks(self.stem(x)))
        logits: Tensor = self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def _randomise_statistics(network: nn.Module) -> None:
    """BatchNorm as if trained, so that folding it is not the identity."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            module.running_mean = torch.randn(module.num_features) * 0.1
            module.running_var = torch.rand(module.num_features) + 0.5


def model(weights: bool = True) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The network, the same on every machine, and one example image; without `weights` on the meta device."""
    if not weights:
        with torch.device("meta"):
            return MobileNetV2().eval(), (torch.zeros(1, 3, 224, 224),)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = MobileNetV2()
        _randomise_statistics(network)
        return network.eval(), (torch.randn(1, 3, 224, 224),)
