"""Each op between a layer whose width is pruned and a sum: constants follow, and pruning equals masking."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chipfit.frontend.importer import import_model
from chipfit.ir.apply import apply, can_rebatch, mask, rebatch
from chipfit.ir.axes import Axis, analyse
from chipfit.ir.configuration import Configuration
from chipfit.ir.emit import run
from chipfit.ir.graph import Graph, Node, TensorType, Value
from chipfit.ir.ops import collect, is_opaque, lookup, table
from chipfit.ir.ops.record import Op
from chipfit.ir.verify import verify

Function = Callable[..., Tensor]
WIDTH = 12


class Features(nn.Module):
    """x [b, 4, 5] -> h [b, 4, 12] -> function -> a sum for each example."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.up, self.function = nn.Linear(5, WIDTH), function

    def forward(self, x: Tensor) -> Tensor:
        y = self.function(self.up(x))
        return y.pow(2).flatten(1).sum(1)


class Channels(nn.Module):
    """x [b, 3, 6, 6] -> h [b, 12, 6, 6] -> function -> a sum for each example."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.up, self.function = nn.Conv2d(3, WIDTH, 1), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.up(x)).pow(2).flatten(1).sum(1)


def imported(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Graph, list[Axis]]:
    """The graph in double precision, and the axes along the layer `up`."""
    graph = import_model(model.double(), tuple(tensor.double() for tensor in inputs))
    axes = analyse(graph).axes.values()
    return graph, [axis for axis in axes if ("up.weight", 0) in axis.members]


def agree(graph: Graph, configuration: Configuration, *inputs: Tensor) -> None:
    pruned, masked = apply(graph, configuration), mask(graph, configuration)
    verify(pruned)
    got, expected = run(pruned, *inputs), run(masked, *inputs)
    for name, tensor in expected.items():
        torch.testing.assert_close(got[name], tensor, rtol=1e-9, atol=1e-9)


def check(model: nn.Module, x: Tensor) -> None:
    graph, axes = imported(model, (x,))
    axes = [axis for axis in axes if axis.state != "frozen"]  # such as the step of a strided slice
    assert {axis.state for axis in axes} == {"exact"}
    for axis in axes:
        agree(graph, Configuration({axis.name: tuple(range(0, axis.size, 2))}), x.double())
    agree(graph, Configuration({axis.name: tuple(range(1, axis.size)) for axis in axes}), x.double())
    assert can_rebatch(graph)
    single = rebatch(graph, 1)
    verify(single)
    whole = run(graph, x.double())
    for name, tensor in run(single, x[:1].double()).items():
        torch.testing.assert_close(tensor, whole[name][:1], rtol=1e-9, atol=1e-9)


def with_zeros(h: Tensor) -> Tensor:
    return torch.cat([h, h.new_zeros(h.shape[0], 2, h.shape[2]), torch.zeros_like(h)], 1)


def scattered(h: Tensor) -> Tensor:
    positions = torch.tensor([2, 0])
    return torch.zeros(h.shape[0], 4, h.shape[2], dtype=h.dtype).index_add(1, positions, h[:, :2])


def rotated(h: Tensor) -> Tensor:
    """Rotary positions by complex numbers."""
    pairs = torch.view_as_complex(h.reshape(*h.shape[:-1], 6, 2))
    turns = torch.polar(torch.ones(4, 1, dtype=h.dtype), torch.arange(4.0, dtype=h.dtype)[:, None])
    return torch.view_as_real(pairs * turns).flatten(-2)


FEATURES: dict[str, Function] = {
    "expand": lambda h: h[:, None].expand(-1, 3, -1, -1) * 2,
    "repeat": lambda h: h.repeat(1, 2, 3),
    "tile": lambda h: h.tile((2, 1)),
    "repeat_interleave": lambda h: h.repeat_interleave(2, -1),
    "stack": lambda h: torch.stack([h, -h], 1),
    "unbind": lambda h: h.unbind(1)[2],
    "chunk": lambda h: h.chunk(3, -1)[1] * h.chunk(3, -1)[2] + h.chunk(3, -1)[0],
    "split": lambda h: torch.cat([part * (i + 1) for i, part in enumerate(h.split(5, -1))], -1),
    "split_with_sizes": lambda h: h.split([2, 4, 6], -1)[1],
    "tensor_split": lambda h: h.tensor_split((3, 8), -1)[1],
    "narrow": lambda h: h.narrow(-1, 3, 5),
    "slice": lambda h: h[..., 3:-2],
    "open slice": lambda h: h[..., 4:],
    "strided slice": lambda h: h[..., 1::3],
    "slice_scatter": lambda h: torch.slice_scatter(h, h[..., 2:7] * 2, -1, 2, 7),
    "strided slice_scatter": lambda h: torch.slice_scatter(h, -h[..., ::2], -1, 0, None, 2),
    "pad": lambda h: F.pad(h, (1, 2)),
    "roll": lambda h: h.roll(1, 1),
    "flip": lambda h: h.flip(1),
    "cumsum": lambda h: h.cumsum(1),
    "norm": lambda h: torch.linalg.vector_norm(h, dim=-1),
    "variance": lambda h: h.var(1),
    "largest": lambda h: h.amax(1),
    "maximum": lambda h: torch.maximum(h, h * 0.5),
    "max": lambda h: torch.max(h, h * 0.5) + h.max(1, keepdim=True).values,
    "mean": lambda h: h.mean(-1) + h.mean((1, 2))[:, None],
    "sum": lambda h: h.sum(-1, keepdim=True) * h,
    "sort": lambda h: h.sort(1).values,
    "topk": lambda h: h.topk(2, 1).values,
    "gather": lambda h: h.gather(1, torch.zeros_like(h, dtype=torch.int64)[:, :1]),
    "index_select": lambda h: h.index_select(1, torch.tensor([3, 1])),
    "index": lambda h: h[:, torch.tensor([3, 1])],
    "index by pairs": lambda h: h[torch.arange(h.shape[0]), h.sum(-1).argmax(1)],
    "index_add": scattered,
    "einsum": lambda h: torch.einsum("btc,bsc->bts", h, h),
    "bmm": lambda h: torch.bmm(h.mT, h).mT,
    "baddbmm": lambda h: torch.baddbmm(torch.bmm(h, h.mT), h, h.mT),
    "movedim": lambda h: h.movedim(-1, 1).unsqueeze(0).squeeze(0),
    "squeeze": lambda h: h[:, :1].squeeze(),
    "unflatten": lambda h: h.unflatten(-1, (3, 4)).transpose(-1, -2).flatten(-2),
    "glu": lambda h: F.glu(h, -1),
    "where": lambda h: torch.where(h > 0.1, h, 0.5 * h),
    "lerp": lambda h: torch.lerp(h, 2 * h, 0.3),
    "clamp": lambda h: h.clamp(-0.5, 0.5) + F.hardswish(h) + F.relu6(h) + F.hardtanh(h),
    "zeros": with_zeros,
    "tril": lambda h: torch.bmm((h @ h.mT).tril(), h),
    "complex": rotated,
    "rms_norm": lambda h: F.rms_norm(h, (WIDTH,), eps=1e-4),
    "attention": lambda h: F.scaled_dot_product_attention(h[:, None], h[:, None], h[:, None]),
    "attention by heads": lambda h: F.scaled_dot_product_attention(
        *(h.unflatten(-1, (3, 4)).transpose(1, 2) for _ in range(3)), is_causal=True
    ),
    "masked attention": lambda h: F.scaled_dot_product_attention(
        h[:, None], h[:, None], h[:, None], attn_mask=torch.ones(4, 4, dtype=torch.bool).tril()
    ),
}

CHANNELS: dict[str, Function] = {
    "max_pool2d": lambda h: F.max_pool2d(h, 2),
    "avg_pool2d": lambda h: F.avg_pool2d(h, 3, 1, 1),
    "adaptive": lambda h: F.adaptive_avg_pool2d(h, 2) + F.adaptive_max_pool2d(h, 2),
    "interpolate": lambda h: F.interpolate(h, scale_factor=2.0),
    "bilinear": lambda h: F.interpolate(h, size=(4, 5), mode="bilinear"),
    "pixel_shuffle": lambda h: F.pixel_shuffle(h, 2),
    "channel_shuffle": lambda h: F.channel_shuffle(h, 3),
    "flatten": lambda h: h.flatten(1),
    "prelu": lambda h: F.prelu(h, torch.tensor([0.1], dtype=h.dtype)),
    "instance": lambda h: h * F.instance_norm(h),
    "reflect": lambda h: F.pad(h, (1, 1, 1, 1), mode="reflect"),
    "covariance": lambda h: h.flatten(2) @ h.flatten(2).mT,
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FEATURES)
def test_an_op_on_features(name: str) -> None:
    check(Features(FEATURES[name]), torch.randn(2, 4, 5))


@pytest.mark.parametrize("name", CHANNELS)
def test_an_op_on_channels(name: str) -> None:
    check(Channels(CHANNELS[name]), torch.randn(2, 3, 6, 6))


class Convolution(nn.Module):
    def __init__(self, convolution: nn.Module) -> None:
        super().__init__()
        self.up, self.down = nn.Conv2d(3, WIDTH, 1), convolution

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down(self.up(x))
        return y.flatten(1).sum(1)


@pytest.mark.parametrize(
    "convolution",
    [
        nn.Conv2d(WIDTH, 8, 3, padding="same", bias=False),
        nn.Conv2d(WIDTH, 8, 3, groups=4, stride=2),
        nn.Conv2d(WIDTH, 2 * WIDTH, 3, groups=WIDTH),
        nn.ConvTranspose2d(WIDTH, 8, 3, stride=2),
        nn.ConvTranspose2d(WIDTH, 8, 2, groups=2),
    ],
)
def test_convolutions(convolution: nn.Module) -> None:
    check(Convolution(convolution), torch.randn(2, 3, 6, 6))


def test_every_axis_of_a_grouped_convolution() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 3, groups=4), nn.ReLU(), nn.Conv2d(12, 3, 1))
    x = torch.randn(2, 3, 6, 6)
    graph = import_model(model.double(), (x.double(),))
    sizes = {axis.name: axis.size for axis in analyse(graph).axes.values() if axis.state == "exact"}
    assert sizes == {"0.weight:0.0": 4, "0.weight:0.1": 2, "1.weight:0.1": 3}
    agree(graph, Configuration({"0.weight:0.0": (0, 2, 3), "1.weight:0.1": (1,)}), x.double())


def test_too_few_are_left_to_choose_from() -> None:
    graph, axes = imported(Features(lambda h: h.topk(3, -1).values), (torch.randn(2, 4, 5),))
    assert axes[0].reasons == ("topk",)
    with pytest.raises(ValueError, match="takes the 3 largest of 2: keep at least 3"):
        apply(graph, Configuration({axes[0].name: (0, 1)}))


def test_the_table_is_whole() -> None:
    assert all(name == op.name for name, op in table().items())
    assert [name for name in table() if not hasattr(torch.ops.aten, name)] == ["grouped_mm_fallback"]


def test_an_op_has_one_record() -> None:
    one = table()["linear"]
    with pytest.raises(ValueError, match="The op linear has a record in here and another in there"):
        collect([("here", [one]), ("there", [one])])


def test_ops_without_a_record() -> None:
    value = Value("x", TensorType((3,), torch.float32))
    erf, fold = (Node(op, (value,), (), (value,)) for op in ("aten.erfc.default", "aten.col2im.default"))
    assert isinstance(lookup(erf), Op)
    assert is_opaque(fold)
    assert not is_opaque(erf)
