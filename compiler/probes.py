"""The short, fixed set of small graphs that calibration times: chains that fit coefficients, networks held out."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Probe:
    """A module over one float input of `shape`. The held-out ones take no part in the fit."""

    name: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    held_out: bool = False


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


def inverted(channels: int, expansion: int, kernel: int, stride: int, out: int) -> nn.Module:
    """The inverted bottleneck of MobileNetV2."""
    hidden = channels * expansion
    wide = nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.ReLU6(), depthwise(hidden, (kernel, stride)))
    return nn.Sequential(wide, nn.Conv2d(hidden, out, 1))


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


PROBES = (
    Probe("linear 1x576", lambda: linears(576, 1536, 576, 1536, 576, 1536, 576), (1, 576)),
    Probe("linear 16x384", lambda: linears(384, 1152, 384, 1152, 384), (1, 16, 384)),
    Probe("linear 64x200", lambda: linears(200, 333, 100, 777, 120), (1, 64, 200)),
    Probe("linear 128x576", lambda: linears(576, 1536, 576), (1, 128, 576)),
    Probe("linear 128x192", lambda: linears(192, 192, 320, 64), (1, 128, 192)),
    Probe("conv 3x3 32x32", lambda: pooled(convs(3, 1, 16, 16, 24, 40)), (1, 16, 32, 32)),
    Probe("conv 3x3 16x16", lambda: pooled(convs(3, 2, 32, 48, 64)), (1, 32, 32, 32)),
    Probe("conv 3x3 7x7", lambda: pooled(convs(3, 1, 64, 128, 100)), (1, 64, 7, 7)),
    Probe("conv 1x1 28x28", lambda: pooled(convs(1, 1, 40, 240, 40)), (1, 40, 28, 28)),
    Probe("conv 1x1 56x56", lambda: pooled(convs(1, 1, 24, 144, 24)), (1, 24, 56, 56)),
    Probe("conv stem", lambda: pooled(convs(3, 2, 3, 32, 32)), (1, 3, 112, 112)),
    Probe("depthwise 56x56", lambda: pooled(depthwise(96, (3, 1), (3, 2))), (1, 96, 56, 56)),
    Probe("depthwise 14x14", lambda: pooled(depthwise(240, (5, 1), (3, 1))), (1, 240, 14, 14)),
    Probe("pools", pools, (1, 64, 56, 56)),
    Probe("rows 128x576", lambda: Rows(576), (1, 128, 576)),
    Probe("rotary 9x128x64", lambda: Rotary(128, 64), (1, 9, 128, 64)),
    Probe("rotary 2x32x32", lambda: Rotary(32, 32), (1, 2, 32, 32)),
    Probe("moves 128x576", Moves, (1, 128, 576)),
    Probe("attention 9x64", lambda: Attention(192, 9, 64, 3), (1, 128, 192)),
    Probe("attention 12x32", lambda: Attention(64, 12, 32), (1, 64, 64)),
    Probe("linear 32x320", lambda: linears(320, 880, 320), (1, 32, 320), held_out=True),
    Probe("residual 16", lambda: residuals(16, 32, 64), (1, 3, 32, 32), held_out=True),
    Probe("residual 11", lambda: residuals(11, 23, 50), (1, 3, 32, 32), held_out=True),
    Probe("inverted 24", lambda: pooled(inverted(24, 6, 3, 2, 40)), (1, 24, 28, 28), held_out=True),
    Probe("decoder 576", lambda: decoder(576, 6, 64, 3, 900), (1, 128, 576), held_out=True),
    Probe("encoder 384", lambda: encoder(384, 7, 32, 700), (1, 128, 384), held_out=True),
)
