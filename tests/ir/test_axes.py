from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torch_pruning as tp
from torch import Tensor, nn
from zoo import ZOO

from chipfit.frontend.importer import import_model
from chipfit.ir.axes import Analysis, analyse
from chipfit.ir.configuration import Configuration

# Written by hand from the architectures: name -> (kind, size, state, members).
Golden = dict[str, tuple[str, int, str, set[tuple[str, int]]]]
LAYERS = range(3)


def both(name: str) -> set[tuple[str, int]]:
    """A linear layer's outputs: its weight's first dimension and its bias."""
    return {(f"{name}.weight", 0), (f"{name}.bias", 0)}


def llama_axes() -> Golden:
    """Query heads are (key heads, group), head dims of q and k are pairs rotated together in all layers."""
    model = "network.model"
    hidden = {(f"{model}.embed_tokens.weight", 1), (f"{model}.norm.weight", 0)}
    rotated = {(f"{model}.rotary_emb.inv_freq", 0)}
    axes: Golden = {}
    for layer in LAYERS:
        at, attention, mlp = (f"{model}.layers.{layer}{part}" for part in ("", ".self_attn", ".mlp"))
        hidden |= {(f"{at}.{norm}_layernorm.weight", 0) for norm in ("input", "post_attention")}
        hidden |= {(f"{attention}.{name}_proj.weight", 1) for name in "qkv"} | {(f"{attention}.o_proj.weight", 0)}
        hidden |= {(f"{mlp}.{name}_proj.weight", 1) for name in ("gate", "up")} | {(f"{mlp}.down_proj.weight", 0)}
        query, key, value = ((f"{attention}.{name}_proj.weight", 0) for name in "qkv")
        out = (f"{attention}.o_proj.weight", 1)
        rotated |= {query, key}
        axes[f"{attention}.q_proj.weight:0.0"] = ("heads", 2, "exact", {query, key, value, out})
        axes[f"{attention}.q_proj.weight:0.1"] = ("heads", 2, "exact", {query, out})
        axes[f"{attention}.v_proj.weight:0.1"] = ("head-dim", 8, "exact", {value, out})
        ffn = {(f"{mlp}.gate_proj.weight", 0), (f"{mlp}.up_proj.weight", 0), (f"{mlp}.down_proj.weight", 1)}
        axes[f"{mlp}.gate_proj.weight:0"] = ("ffn", 48, "exact", ffn)
    axes[f"{model}.layers.0.self_attn.q_proj.weight:0.2"] = ("head-dim", 4, "exact", rotated)
    axes[f"{model}.embed_tokens.weight:1"] = ("hidden", 32, "exact", hidden)
    vocabulary = {(f"{model}.embed_tokens.weight", 0)}
    axes[f"{model}.embed_tokens.weight:0"] = ("vocabulary", 64, "frozen", vocabulary)
    return axes


def bert_axes() -> Golden:
    """The sentence embedding leaves through the hidden width, so that is frozen; positions are looked up by data."""
    embeddings = "network.embeddings"
    tables = {"word": 64, "position": 16, "token_type": 2}
    hidden = {(f"{embeddings}.{name}_embeddings.weight", 1) for name in tables}
    hidden |= both(f"{embeddings}.LayerNorm")
    axes: Golden = {}
    for name, size in tables.items():
        table = f"{embeddings}.{name}_embeddings.weight"
        axes[f"{table}:0"] = ("vocabulary", size, "frozen", {(table, 0)})
    for layer in LAYERS:
        at = f"network.encoder.layer.{layer}"
        attention, out, up, down = (
            f"{at}.{part}" for part in ("attention.self", "attention.output", "intermediate.dense", "output")
        )
        query, key, value = (both(f"{attention}.{name}") for name in ("query", "key", "value"))
        hidden |= {(f"{attention}.{name}.weight", 1) for name in ("query", "key", "value")} | {(f"{up}.weight", 1)}
        hidden |= both(f"{out}.dense") | both(f"{out}.LayerNorm") | both(f"{down}.dense") | both(f"{down}.LayerNorm")
        read = {(f"{out}.dense.weight", 1)}
        axes[f"{attention}.query.weight:0.0"] = ("heads", 4, "exact", query | key | value | read)
        axes[f"{attention}.query.weight:0.1"] = ("head-dim", 8, "exact", query | key)
        axes[f"{attention}.value.weight:0.1"] = ("head-dim", 8, "exact", value | read)
        axes[f"{up}.weight:0"] = ("ffn", 48, "exact", both(up) | {(f"{down}.dense.weight", 1)})
    axes[f"{embeddings}.word_embeddings.weight:1"] = ("hidden", 32, "frozen", hidden)
    return axes


def gpt2_axes() -> Golden:
    """Weights are (in, out); q, k and v are three pieces of one, so their head dims stay apart."""
    model = "network.transformer"
    hidden = {(f"{model}.wte.weight", 1), (f"{model}.wpe.weight", 1)} | both(f"{model}.ln_f")
    axes: Golden = {
        f"{model}.wte.weight:0": ("vocabulary", 64, "frozen", {(f"{model}.wte.weight", 0)}),
        f"{model}.wpe.weight:0": ("vocabulary", 16, "frozen", {(f"{model}.wpe.weight", 0)}),
    }
    for layer in range(2):
        at = f"{model}.h.{layer}"
        packed = {(f"{at}.attn.c_attn.weight", 1), (f"{at}.attn.c_attn.bias", 0)}
        read, widened = (f"{at}.attn.c_proj.weight", 0), f"{at}.mlp.c_fc"
        hidden |= both(f"{at}.ln_1") | both(f"{at}.ln_2")
        hidden |= {(f"{at}.attn.c_attn.weight", 0), (f"{widened}.weight", 0)}
        hidden |= {(f"{at}.{part}.c_proj.{which}", dim) for part in ("attn", "mlp") for which, dim in TRANSPOSED}
        axes[f"{at}.attn.c_attn.weight:1.0"] = ("heads", 4, "exact", packed | {read})
        axes[f"{at}.attn.c_attn.weight:1.1"] = ("head-dim", 8, "exact", packed)
        axes[f"{at}.attn.c_attn.weight:1.5"] = ("head-dim", 8, "exact", packed | {read})
        ffn = {(f"{widened}.weight", 1), (f"{widened}.bias", 0), (f"{at}.mlp.c_proj.weight", 0)}
        axes[f"{widened}.weight:1"] = ("ffn", 128, "exact", ffn)
    axes[f"{model}.wte.weight:1"] = ("hidden", 32, "inexact", hidden)
    return axes


TRANSPOSED = (("weight", 1), ("bias", 0))


@pytest.mark.parametrize(("name", "golden"), [("llama", llama_axes), ("bert", bert_axes), ("gpt2", gpt2_axes)])
def test_the_axes_of_a_transformer(name: str, golden: Callable[[], Golden]) -> None:
    found = analyse(import_model(*ZOO[name]())).axes
    assert {n: (axis.kind, axis.size, axis.state, set(axis.members)) for n, axis in found.items()} == golden()


def test_attention_spelt_out_has_the_axes_of_the_fused_one() -> None:
    fused, spelt = (analyse(import_model(*ZOO[name]())).axes for name in ("llama", "llama-eager"))
    head = {"network.lm_head.weight:0", "network.model.embed_tokens.weight:0", "network.model.embed_tokens.weight:1"}
    assert {name: axis for name, axis in fused.items() if name not in head} == {
        name: axis for name, axis in spelt.items() if name not in head
    }


def groups_of_torch_pruning(model: nn.Module, inputs: tuple[Tensor, ...]) -> set[frozenset[tuple[str, int]]]:
    """Each group as the (layer, weight dimension) pairs that it prunes; the head's outputs stay."""
    names = {module: name for name, module in model.named_modules()}
    graph = tp.DependencyGraph().build_dependency(model, inputs)
    head = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    found = set()
    for group in graph.get_all_groups(ignored_layers=[head], root_module_types=[nn.Conv2d, nn.Linear]):
        members = set()
        for dependency, _ in group:
            layer = dependency.target.module
            if layer in names and isinstance(layer, (nn.Conv2d, nn.Linear, nn.BatchNorm2d)):
                outputs = graph.is_out_channel_pruning_fn(dependency.handler) or isinstance(layer, nn.BatchNorm2d)
                grouped = isinstance(layer, nn.Conv2d) and layer.groups > 1
                members.add((names[layer], 0 if outputs or grouped else 1))
        found.add(frozenset(members))
    return found


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["resnet", "mobilenet", "efficientnet", "densenet"])
def test_the_axes_of_a_convolutional_net_are_the_groups_of_torch_pruning(name: str) -> None:
    model, inputs = ZOO[name]()
    axes = [axis for axis in analyse(import_model(model, inputs)).axes.values() if axis.state != "frozen"]
    ours = {
        frozenset((n.removesuffix(".weight"), dim) for n, dim in axis.members if n.endswith(".weight")) for axis in axes
    }
    assert {axis.state for axis in axes} == {"exact"}
    assert {axis.kind for axis in axes} == {"channels"}
    assert ours == groups_of_torch_pruning(model, inputs)


class Between(nn.Module):
    """A hidden width of 6 between two linear layers, with a function on it."""

    def __init__(self, function: Callable[[Tensor], Tensor], bias: bool = True) -> None:
        super().__init__()
        self.up, self.down, self.function = nn.Linear(5, 6, bias), nn.Linear(6, 3), function

    def forward(self, x: Tensor) -> Tensor:
        h = self.function(self.up(x))
        return self.down(h) if h.shape[-1] == 6 else h


def width_between(function: Callable[[Tensor], Tensor]) -> tuple[str, tuple[str, ...]]:
    axis = analyse(import_model(Between(function), (torch.randn(2, 4, 5),))).axes["up.weight:0"]
    return axis.state, axis.reasons


@pytest.mark.parametrize(
    ("function", "state", "reason"),
    [
        (F.relu, "exact", None),
        (F.silu, "exact", None),
        (lambda h: h * torch.sigmoid(h), "exact", None),
        (lambda h: h / (1 + h.abs()), "exact", None),
        (lambda h: h.masked_fill(h > 1, 0.0), "exact", None),
        (lambda h: h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6), "exact", None),
        (lambda h: h.sum(-1, keepdim=True), "exact", None),
        (torch.sigmoid, "exact", None),  # whatever it is, the next weight's column is zero
        (lambda h: (h + 1).sum(-1, keepdim=True), "inexact", "sum sums entries that aren't zero"),
        (lambda h: h.masked_fill(h < 1, 2.0).sum(-1, keepdim=True), "inexact", "sum sums entries that aren't zero"),
        (lambda h: torch.cos(h) @ torch.cos(h).mT, "inexact", "matmul sums entries that aren't zero"),
        (lambda h: torch.sigmoid(h).sum(-1, keepdim=True), "inexact", "sum sums entries that aren't zero"),
        (lambda h: torch.cos(h).mean(-1, keepdim=True), "inexact", "mean sums entries that aren't zero"),
        (lambda h: h.amax(-1, keepdim=True), "inexact", "amax"),
        (lambda h: torch.softmax(h, -1), "inexact", "softmax"),
        (lambda h: F.layer_norm(h, (6,)), "inexact", "normalised"),
        (lambda h: h.flip(-1), "frozen", "flip"),
        (lambda h: h.roll(1, -1), "frozen", "roll"),
        (lambda h: h[..., 0], "frozen", "select"),
        (lambda h: torch.fft.rfft(h).real, "frozen", "op fft_rfft"),
    ],
)
def test_pruning_is_exact_only_where_it_equals_masking(
    function: Callable[[Tensor], Tensor], state: str, reason: str | None
) -> None:
    found, reasons = width_between(function)
    assert found == state
    assert reason is None or reason in reasons


def test_unknown_ops_are_counted_and_freeze_what_they_touch() -> None:
    analysis = analyse(import_model(*ZOO["lstm"]()))
    assert analysis.opaque == {"lstm": 1}
    assert analysis.frozen["before.weight:0"].reasons == ("op lstm",)
    assert analysis.axes["up.weight:0"].state == "exact"


class Router(nn.Module):
    """Two of four experts for each token, all computed and then chosen by position."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(5, 4, bias=False)
        self.experts = nn.Parameter(torch.randn(4, 5, 5))

    def forward(self, x: Tensor) -> Tensor:
        scores, chosen = torch.softmax(self.gate(x), -1).topk(2, -1)
        weights = torch.einsum("tk,tke->te", scores, F.one_hot(chosen, 4).to(scores.dtype))
        return torch.einsum("ti,eio,te->to", x, self.experts, weights)


class DirectRouter(Router):
    """The same by reading the experts' weights at the positions."""

    def forward(self, x: Tensor) -> Tensor:
        scores, chosen = torch.softmax(self.gate(x), -1).topk(2, -1)
        return torch.einsum("ti,tkio,tk->to", x, self.experts[chosen], scores)


class ArithmeticRouter(Router):
    """Counts with the positions, so they can't be renumbered."""

    def forward(self, x: Tensor) -> Tensor:
        _, chosen = torch.softmax(self.gate(x), -1).topk(2, -1)
        return torch.einsum("ti,tkio,tk->to", x, self.experts[chosen], chosen.to(x.dtype) * 0.5)


@pytest.mark.parametrize("router", [Router, DirectRouter])
def test_positions_couple_a_router_with_its_experts(router: type[Router]) -> None:
    axis = analyse(import_model(router(), (torch.randn(3, 5),))).axes["experts:0"]
    assert (axis.kind, axis.state) == ("experts", "inexact")
    assert axis.members == (("experts", 0), ("gate.weight", 0))


def test_positions_read_as_numbers_freeze_the_experts() -> None:
    axis = analyse(import_model(ArithmeticRouter(), (torch.randn(3, 5),))).axes["experts:0"]
    assert axis.state == "frozen"
    assert "index read by mul" in axis.reasons


def tiny() -> Analysis:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    return analyse(import_model(model, (torch.randn(2, 4),)))


def test_kept_indices_follow_a_width_to_values_and_parameters() -> None:
    analysis, configuration = tiny(), Configuration({"0.weight:0": (1, 4)})
    for name, dim in (("0.weight", 0), ("0.bias", 0), ("2.weight", 1), ("relu", 1)):
        kept = analysis.kept(name, dim, configuration)
        assert kept is not None
        assert kept.tolist() == [1, 4]
    assert analysis.kept("2.weight", 0, configuration) is None
    assert analysis.axes_of("relu") == {"0.weight:0"}


def test_kept_indices_of_a_product_are_those_of_both_factors() -> None:
    analysis = analyse(import_model(*ZOO["bert"]()))
    query = "network.encoder.layer.0.attention.self.query.weight"
    kept = analysis.kept(query, 0, Configuration({f"{query}:0.0": (1, 3), f"{query}:0.1": (0, 5)}))
    assert kept is not None
    assert kept.tolist() == [8, 13, 24, 29]


def test_a_graph_is_analysed_once() -> None:
    graph = import_model(nn.Linear(4, 3), (torch.randn(2, 4),))
    assert analyse(graph) is analyse(graph)
    assert analyse(graph.with_state({})) is not analyse(graph)
