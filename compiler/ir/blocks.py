"""Parts that can be left out whole: residual branches and repeated layers, from the graph alone.

A branch is what `exit = skip + branch(skip)` computes beside its skip. A layer is one period of the longest run of
equal segments along the residual stream, if it holds several branches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from chipfit.ir.flow import Flow
from chipfit.ir.graph import Graph, Node, Value
from chipfit.ir.layers import repeated

PRODUCTS = frozenset({"baddbmm", "bmm", "einsum", "matmul", "mm"})
LINEARS = PRODUCTS | {"addmm", "linear"}
ACTIVATIONS = frozenset({"gelu", "hardswish", "hardtanh", "leaky_relu", "mish", "relu", "sigmoid", "silu", "tanh"})


@dataclass(frozen=True)
class Block:
    """Dropping it replaces the value `exit` by the value `skip`; then `nodes` are dead and `parameters` are unused."""

    name: str
    kind: str  # "attention", "mlp", "branch" or "layer"
    skip: str
    exit: str
    nodes: frozenset[str]
    parameters: int  # elements


@dataclass(frozen=True)
class Span:
    """A block before it has a name; `nodes` in order."""

    kind: str
    skip: Value
    exit: Value
    nodes: tuple[Node, ...]


def find_blocks(graph: Graph, entry: str = "forward") -> Mapping[str, Block]:
    """The droppable blocks by name: layers, then branches, each in the order of the graph."""
    flow = Flow(graph, graph.entries[entry])
    branches = list(find_branches(flow))
    return named(flow, [*find_layers(flow, branches), *branches])


def smallest_blocks(graph: Graph) -> dict[str, Block]:
    """Those that hold no others, by name and in order: a layer is dropped as its attention and its MLP."""
    blocks = find_blocks(graph)
    held = {other.nodes for other in blocks.values()}
    return {name: block for name, block in blocks.items() if not any(nodes < block.nodes for nodes in held)}


def find_branches(flow: Flow) -> Iterator[Span]:
    """Each `exit = skip + branch(skip)` whose branch has parameters. A projection beside the branch is no skip."""
    skips: dict[str, Value] = {}  # exit -> skip of the branches so far
    for node in flow.entry.nodes:
        end = node.outputs[0]
        for skip, branch in additions(node):
            if any(flow.depends(branch, origin) for origin in origins(flow, skip, skips)):
                nodes = flow.dying(skip, end)
                if any(flow.weights(part) for part in nodes):
                    skips[end.name] = skip
                    yield Span(kind_of(flow, nodes), skip, end, nodes)
                break


def find_layers(flow: Flow, branches: Sequence[Span]) -> Iterator[Span]:
    """The repeated segments with at least two branches; one with a single branch would only double that."""
    exits = {branch.exit.name for branch in branches}
    for skip, end in repeated(flow, branches[0].skip) if branches else ():
        nodes = flow.dying(skip, end)
        if len(exits.intersection(node.name for node in nodes)) > 1:
            yield Span("layer", skip, end, nodes)


def additions(node: Node) -> Iterator[tuple[Value, Value]]:
    """The (skip, branch) readings of a sum of two values of its own type."""
    if node.kind != "add" or len(node.inputs) != 2 or any(value.type != node.outputs[0].type for value in node.inputs):
        return
    first, second = node.inputs
    yield first, second
    if node.kwarg("alpha", 1) == 1:  # alpha scales the second
        yield second, first


def origins(flow: Flow, value: Value, skips: Mapping[str, Value]) -> Iterator[Value]:
    """The value itself, then what it carries on unchanged: the source of a cast, the skip of a parallel branch."""
    while True:
        yield value
        node = flow.entry.producers.get(value.name)
        if value.name in skips:
            value = skips[value.name]
        elif node and node.kind == "to":
            value = node.inputs[0]
        else:
            return


def kind_of(flow: Flow, nodes: Sequence[Node]) -> str:
    """By content: attention mixes values by computed weights; an MLP has a non-linearity and several linear layers."""
    kinds = [node.kind for node in nodes]
    if any("attention" in kind for kind in kinds) or softmax_between_products(flow, nodes):
        return "attention"
    layers = [node for node in nodes if node.kind in LINEARS and flow.weights(node)]
    return "mlp" if len(layers) > 1 and not ACTIVATIONS.isdisjoint(kinds) else "branch"


def softmax_between_products(flow: Flow, nodes: Sequence[Node]) -> bool:
    """Whether a product of two activations reaches a softmax, and that another such product, within `nodes`."""
    stages: dict[str, int] = {}  # value name -> 1 behind a product, 2 behind its softmax
    for node in nodes:
        stage = max((stages.get(value.name, 0) for value in node.inputs), default=0)
        product = node.kind in PRODUCTS and not flow.weights(node)
        if product and stage == 2:
            return True
        stage = max(stage, int(product))
        stage = 2 if stage == 1 and "softmax" in node.kind else stage
        stages.update((value.name, stage) for value in node.outputs)
    return False


def named(flow: Flow, spans: Sequence[Span]) -> dict[str, Block]:
    """Each block under the path that the modules of its weights share, made unique by its kind and then a count.

    A branch bears its kind too where its path holds another branch, whether or not the two make a layer: the name is
    the same in a graph whose layers differ, as those do of which other weights are rounded.
    """
    paths = [path_of(flow, span) for span in spans]
    blocks: dict[str, Block] = {}
    for place, (span, path) in enumerate(zip(spans, paths, strict=True)):
        holds = any(other == path or other.startswith(f"{path}.") for other in (*paths[:place], *paths[place + 1 :]))
        names = [f"{path}.{span.kind}", *(f"{path}.{span.kind}.{i}" for i in range(2, len(blocks) + 3))]
        names = names if holds and span.kind != "layer" else [path, *names]
        name = next(name for name in names if name not in blocks)
        nodes = frozenset(node.name for node in span.nodes)
        unused = flow.unused_parameters(nodes)
        blocks[name] = Block(name, span.kind, span.skip.name, span.exit.name, nodes, unused)
    return blocks


def path_of(flow: Flow, span: Span) -> str:
    """The path that the modules of its weights share, else its exit's name."""
    return common_module(node.module for node in span.nodes if has_matrix(flow, node)) or span.exit.name


def has_matrix(flow: Flow, node: Node) -> bool:
    """Whether the node reads weights other than a bias or a norm's scale, which may belong to a module outside."""
    return any(len(value.shape) > 1 for value in flow.weights(node))


def common_module(paths: Iterable[str]) -> str:
    columns = zip(*(path.split(".") for path in paths), strict=False)
    return ".".join(parts[0] for parts in takewhile(lambda parts: len(set(parts)) == 1, columns))
