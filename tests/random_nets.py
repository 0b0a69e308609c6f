"""Random small networks for property tests: a list of step names, each adapting to the width that it meets."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn


class Branch(nn.Module):
    """x plus a branch of the same width."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.branch(x)
        return y


class Apply(nn.Module):
    """A function without parameters."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Excite(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(width, 4, 1), nn.Conv2d(4, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))


class Dense(nn.Module):
    """x and four new channels of it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([F.relu(self.conv(x)), x], 1)


class Attend(nn.Module):
    """Attention with two groups of two query heads."""

    def __init__(self, width: int, fused: bool) -> None:
        super().__init__()
        self.query, self.kv, self.out = nn.Linear(width, 24), nn.Linear(width, 2 * 2 * 6), nn.Linear(24, width)
        self.fused = fused

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        query = self.query(x).view(batch, length, 4, 6).transpose(1, 2)
        key, value = self.kv(x).view(batch, length, 2, 12).transpose(1, 2).split(6, -1)
        if self.fused:
            y = F.scaled_dot_product_attention(query, key, value, enable_gqa=True)
        else:
            key, value = key.repeat_interleave(2, 1), value.repeat_interleave(2, 1)
            y = torch.softmax(query @ key.transpose(-1, -2) / 6**0.5, -1) @ value
        projected: Tensor = self.out(y.transpose(1, 2).reshape(batch, length, 24))
        return projected


def shuffled(x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    return x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)


def summed(x: Tensor) -> Tensor:
    """Adds to each entry what isn't zero where x is."""
    return x + torch.sigmoid(x).sum(-1, keepdim=True)


Built = tuple[nn.Module, int]
CONVOLUTIONAL: dict[str, Callable[[int], Built]] = {
    "conv": lambda w: (nn.Conv2d(w, 12, 3, padding=1), 12),
    "grouped": lambda w: (nn.Conv2d(w, 8, 3, padding=1, groups=2), 8),
    "depthwise": lambda w: (nn.Conv2d(w, w, 3, padding=1, groups=w, bias=False), w),
    "transposed": lambda w: (nn.ConvTranspose2d(w, 8, 2), 8),
    "norm": lambda w: (nn.BatchNorm2d(w), w),
    "group-norm": lambda w: (nn.GroupNorm(2, w), w),
    "relu": lambda w: (nn.ReLU(), w),
    "sigmoid": lambda w: (nn.Sigmoid(), w),
    "residual": lambda w: (Branch(nn.Sequential(nn.Conv2d(w, 8, 1), nn.SiLU(), nn.Conv2d(8, w, 1))), w),
    "excite": lambda w: (Excite(w), w),
    "dense": lambda w: (Dense(w), w + 4),
    "shuffle": lambda w: (nn.ChannelShuffle(2), w),
    "shuffle-by-hand": lambda w: (Apply(shuffled), w),
    "gate": lambda w: (nn.GLU(1), w // 2),
    "halves": lambda w: (Apply(lambda x: x[:, : w // 2] - x[:, w // 2 :]), w // 2),
    "pool": lambda w: (nn.MaxPool2d(3, 1, 1), w),
    "pad": lambda w: (nn.ZeroPad2d(1), w),
}
SEQUENTIAL: dict[str, Callable[[int], Built]] = {
    "linear": lambda w: (nn.Linear(w, 12), 12),
    "gelu": lambda w: (nn.GELU(), w),
    "feed-forward": lambda w: (Branch(nn.Sequential(nn.Linear(w, 10), nn.SiLU(), nn.Linear(10, w))), w),
    "layer-norm": lambda w: (nn.LayerNorm(w), w),
    "rms-norm": lambda w: (nn.RMSNorm(w, eps=1e-5), w),
    "attention": lambda w: (Branch(Attend(w, fused=True)), w),
    "eager-attention": lambda w: (Branch(Attend(w, fused=False)), w),
    "mean-square": lambda w: (Apply(lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)), w),
    "gate": lambda w: (nn.GLU(), w // 2),
    "softmax": lambda w: (nn.Softmax(-1), w),
    "sum": lambda w: (Apply(summed), w),
    "regroup": lambda w: (Apply(lambda x: x.unflatten(-1, (2, w // 2)).transpose(-1, -2).flatten(-2)), w),
    "rotate": lambda w: (Apply(lambda x: torch.cat([-x[..., w // 2 :], x[..., : w // 2]], -1) + x), w),
}


def build(
    table: dict[str, Callable[[int], Built]], steps: Sequence[str], first: nn.Module, last: nn.Module
) -> nn.Module:
    torch.manual_seed(0)
    width, body = 12, []
    for step in steps:
        if width % 4 == 0:  # halves of odd widths would not split
            module, width = table[step](width)
            body.append(module)
    model = nn.Sequential(first, *body, last).eval()
    model(torch.randn(2, 3, 6, 6) if isinstance(first, nn.Conv2d) else torch.randn(2, 4, 5))  # sizes the lazy head
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if "running" in name or "norm" in name.lower() or tensor.dim() == 1:
            nn.init.uniform_(tensor.data, 0.5, 1.5) if "num_batches" not in name else None
    return model.double()


def convolutional() -> st.SearchStrategy[nn.Module]:
    """Images [batch, 3, 6, 6] to three numbers."""

    def net(steps: list[str]) -> nn.Module:
        last = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(3))
        return build(CONVOLUTIONAL, steps, nn.Conv2d(3, 12, 3, padding=1), last)

    return st.lists(st.sampled_from(sorted(CONVOLUTIONAL)), max_size=7).map(net)


def sequential() -> st.SearchStrategy[nn.Module]:
    """Sequences [batch, 4, 5] to three numbers at each place."""
    return st.lists(st.sampled_from(sorted(SEQUENTIAL)), max_size=7).map(
        lambda steps: build(SEQUENTIAL, steps, nn.Linear(5, 12), nn.LazyLinear(3))
    )
