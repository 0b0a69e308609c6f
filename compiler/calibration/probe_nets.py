"""Layers and small networks of which probes are made."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def linears(*widths: int) -> nn.Module:
    """Linear layers between consecutive widths, a GELU after each but the last."""
    layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(*itertools.chain.from_iterable((layer, nn.GELU()) for layer in layers[:-1]), layers[-1])


def convs(kernel: int, stride: int, *channels: int) -> nn.Module:
    """Convolutions between consecutive channels, a ReLU after each; the first has the stride."""
    strides = itertools.chain([stride], itertools.repeat(1))
    pairs = zip(itertools.pairwise(channels), strides, strict=False)
    layers = [(nn.Conv2d(a, b, kernel, step, kernel // 2), nn.ReLU()) for (a, b), step in pairs]
    return nn.Sequential(*itertools.chain.from_iterable(layers))


def depthwise(channels: int, *kernels_and_strides: tuple[int, int]) -> nn.Module:
    layers = (nn.Conv2d(channels, channels, k, s, k // 2, groups=channels) for k, s in kernels_and_strides)
    return nn.Sequential(*itertools.chain.from_iterable((layer, nn.ReLU6()) for layer in layers))


class Attention(nn.Module):
    """Self-attention of `heads` heads of `size`, keys and values shared by `share` of them."""

    def __init__(self, width: int, heads: int, size: int, share: int = 1) -> None:
        super().__init__()
        self.size, self.share = size, share
        self.q, self.o = nn.Linear(width, heads * size), nn.Linear(heads * size, width)
        self.k, self.v = (nn.Linear(width, heads // share * size) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (-1, self.size)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.share > 1)
        return self.o(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class Gated(nn.Module):
    """The gated feed-forward network of Llama."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(width, hidden), nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))  # type: ignore[no-any-return]


class Residual(nn.Module):
    """x + branch(norm(x)), as transformers have it, or ReLU(x + branch(x)) where there is no norm."""

    def __init__(self, branch: nn.Module, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.branch, self.norm = branch, norm

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(self.norm(x)) if self.norm else F.relu(x + self.branch(x))


def decoder(width: int, heads: int, size: int, share: int, hidden: int) -> nn.Module:
    attention = Residual(Attention(width, heads, size, share), RMSNorm(width))
    return nn.Sequential(attention, Residual(Gated(width, hidden), RMSNorm(width)))


def encoder(width: int, heads: int, size: int, hidden: int) -> nn.Module:
    attention = Residual(Attention(width, heads, size), nn.LayerNorm(width))
    return nn.Sequential(attention, Residual(linears(width, hidden, width), nn.LayerNorm(width)))


def residuals(*channels: int) -> nn.Module:
    """A residual network: a stem, then for each channel count a strided convolution and a residual block."""
    stages = [
        nn.Sequential(convs(3, 2, a, b), Residual(nn.Sequential(convs(3, 1, b, b), nn.Conv2d(b, b, 3, padding=1))))
        for a, b in itertools.pairwise(channels)
    ]
    return nn.Sequential(
        convs(3, 1, 3, channels[0]), *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), linears(channels[-1], 10)
    )


def basics(channels: int, count: int) -> nn.Module:
    """Residual blocks of two 3x3 convolutions (ResNet-18's)."""

    def block() -> nn.Module:
        return Residual(nn.Sequential(convs(3, 1, channels, channels), nn.Conv2d(channels, channels, 3, padding=1)))

    return pooled(stacked(block, count))


def bottlenecks(channels: int, inner: int, count: int) -> nn.Module:
    """Residual blocks of 1x1, 3x3 and 1x1 (ResNet-50's)."""

    def block() -> nn.Module:
        narrow = (convs(1, 1, channels, inner), convs(3, 1, inner, inner))
        return Residual(nn.Sequential(*narrow, nn.Conv2d(inner, channels, 1)))

    return pooled(stacked(block, count))


class Sum(nn.Module):
    """x + branch(x)."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)  # type: ignore[no-any-return]


def inverted(channels: int, expansion: int, kernel: int, stride: int, out: int) -> nn.Module:
    """The inverted bottleneck of MobileNetV2."""
    hidden = channels * expansion
    wide = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.ReLU6(), depthwise(hidden, (kernel, stride)))
    return nn.Sequential(wide, nn.Conv2d(hidden, out, 1))


def inverteds(channels: int, expansion: int, kernel: int, count: int) -> nn.Module:
    return pooled(stacked(lambda: Sum(inverted(channels, expansion, kernel, 1, channels)), count))


def stacked(build: Callable[[], nn.Module], count: int) -> nn.Module:
    return nn.Sequential(*(build() for _ in range(count)))


def pooled(module: nn.Module) -> nn.Module:
    """Ends in a vector, so that no image has to be brought back into PyTorch's layout."""
    return nn.Sequential(module, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def pools() -> nn.Module:
    return nn.Sequential(
        nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2), nn.MaxPool2d(2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


class RMSNorm(nn.Module):
    """RMSNorm op by op, as transformers spells it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Rows(nn.Module):
    """Norms and softmax over rows, nothing else."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer, self.rms = nn.LayerNorm(width), RMSNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(self.rms(F.softmax(self.layer(x), -1)), -1)


class Rotary(nn.Module):
    """Rotary embedding of (batch, heads, rows, size), then what joins two values that others read as well."""

    def __init__(self, rows: int, size: int) -> None:
        super().__init__()
        self.cos, self.sin = nn.Parameter(torch.rand(rows, size)), nn.Parameter(torch.rand(rows, size))

    def forward(self, x: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        turned = torch.cat((-x[..., half:], x[..., :half]), -1)
        y = x * self.cos + turned * self.sin
        return torch.cat((y, x), 1)


class Moves(nn.Module):
    """Parts of a value put together in another order, and its rows turned."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x[:, 1:], x[:, :1], x), 1).transpose(1, 2).contiguous()
