"""Networks to time that are no examples: their weights are random, which changes no latency."""

import torch
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetForImageClassification

STAGES = {18: ("basic", [2, 2, 2, 2], [64, 128, 256, 512]), 50: ("bottleneck", [3, 4, 6, 3], [256, 512, 1024, 2048])}


class Logits(nn.Module):
    """A classifier of transformers that returns the logits alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> Tensor:
        logits: Tensor = self.network(pixels).logits
        return logits


def resnet(depth: int) -> tuple[nn.Module, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    kind, blocks, widths = STAGES[depth]
    config = ResNetConfig(layer_type=kind, depths=blocks, hidden_sizes=widths, num_labels=1000)
    return Logits(ResNetForImageClassification(config)).eval(), (torch.randn(1, 3, 224, 224),)


def resnet18() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return resnet(18)


def resnet50() -> tuple[nn.Module, tuple[Tensor, ...]]:
    return resnet(50)
