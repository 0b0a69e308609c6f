"""The fusion plan: which nodes become one kernel. Cost models and code generation read the same plan.

A kernel has one anchor (a matmul, a convolution, a reduction, ...) that takes in what costs nothing beside it: the
views that it reads through, the zero padding before it, the pointwise ops after it. What is left, pointwise ops and
moves, is grouped so that values read only inside a group are never stored. Nodes that depend on no input are in no
kernel: they are computed at compile time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from chipfit.ir.graph import EntryPoint, Graph, Node, Value
from chipfit.ir.kernel import Kernel, kernel_of
from chipfit.ir.kinds import ATTENTION, CONVS, EPILOGUE, STRIDED, VIEWS, kind_of, tags
from chipfit.ir.memo import per_graph
from chipfit.ir.patterns import (
    fuses_epilogue,
    is_factor,
    is_repeated,
    is_square,
    is_zero_padding,
    joins_epilogue,
    no_alpha,
    over_last_axis,
    swaps_heads,
)
from chipfit.ir.precision import Narrow, narrow
from chipfit.ir.rounded import reads_rounded_rows, rounded_rows
from chipfit.ir.rounded_conv import RoundedConv, rounded_conv
from chipfit.ir.stored import stored_weight


def kernels(entry: EntryPoint) -> tuple[Kernel, ...]:
    """The plan of an entry point, in an order in which it can run."""
    return Planner(entry).plan()


def folded(entry: EntryPoint) -> tuple[Node, ...]:
    """The nodes that depend on no input of the entry point, in order."""
    varying = {value.name for value in entry.inputs}
    varying |= {part.name for node in entry.nodes for part in weight_nodes(entry, node)}
    fixed = []
    for node in entry.nodes:
        if (
            node.name in varying
            or any(value.name in varying for value in node.inputs)
            or "nondeterministic_seeded" in tags(node.op)
        ):
            varying.update(value.name for value in node.outputs)
        else:
            fixed.append(node)
    return tuple(fixed)


def weight_nodes(entry: EntryPoint, node: Node) -> tuple[Node, ...]:
    """The nodes through which a layer alone reads a weight that is kept in few bits or rounded to bfloat16."""
    if fewer := in_fewer_bits(entry, node):
        return (fewer.weight,)
    stored = stored_weight(entry, node)
    return stored.nodes if stored else ()


def in_fewer_bits(entry: EntryPoint, node: Node) -> Narrow | RoundedConv | None:
    """A layer that multiplies in fewer bits than its source and its result have."""
    return narrow(entry, node) or rounded_conv(entry, node)


@per_graph
def planned(graph: Graph) -> tuple[Kernel, ...]:
    """The kernels of what the graph computes."""
    return kernels(graph.forward)


class Planner:
    """Anchors claim their neighbours first, in order; then the rest is grouped from the outputs backwards."""

    def __init__(self, entry: EntryPoint) -> None:
        constants = {node.name for node in folded(entry)}
        self.entry = entry
        self.nodes = [node for node in entry.nodes if node.name not in constants]
        self.fewer = {node.name: fewer for node in self.nodes if (fewer := in_fewer_bits(entry, node))}
        self.parts = {node.name for fewer in self.fewer.values() for node in fewer.nodes}  # no other kernel takes them
        self.varying = {value.name for node in self.nodes for value in node.outputs}
        self.position = {node.name: index for index, node in enumerate(entry.nodes)}
        self.returned = {value.name for value in entry.outputs}
        self.group: dict[str, list[Node]] = {}  # anchor's name -> the nodes of its kernel
        self.owner: dict[str, str] = {}  # node's name -> its anchor's name

    def plan(self) -> tuple[Kernel, ...]:
        for node in self.nodes:
            self.claim_rms_norm(node)
            self.claim_rounding(node)
        for node in self.nodes:
            if node.name not in self.owner and kind_of(node) not in ("pointwise", "move"):
                self.claim_anchor(node)
        for node in reversed(self.nodes):
            if node.name not in self.owner:
                self.join_or_start(node)
        return tuple(self.built(anchor) for anchor in self.ordered_anchors())

    def claim(self, anchor: str, nodes: Iterable[Node]) -> None:
        for node in nodes:
            self.owner[node.name] = anchor
            self.group.setdefault(anchor, []).append(node)

    def reader(self, node: Node) -> Node | None:
        """The one node that reads `node`, or None if several do, none does, or the value is returned."""
        readers = self.entry.consumers.get(node.name, ())
        alone = len(readers) == 1 and len(node.outputs) == 1 and node.name not in self.returned
        free = alone and readers[0].name not in self.owner and readers[0].name not in self.parts
        return readers[0] if free else None

    def claim_rms_norm(self, square: Node) -> None:
        """x * rsqrt(mean(x * x) + eps), times a weight if there is one, as transformers spells RMSNorm.

        A factor on the mean is what pruning x leaves there: the mean still counts the entries removed.
        """
        if not is_square(square):
            return
        chain = [square]
        for kinds in (("mean",), ("add",), ("rsqrt",), ("mul",)):
            following = self.reader(chain[-1])
            if following and is_factor(following, chain[-1]):
                chain.append(following)
                following = self.reader(following)
            if following is None or following.kind not in kinds:
                return
            chain.append(following)
        x, mean, scaled = square.inputs[0], chain[1], chain[-1]
        if x not in scaled.inputs or scaled.outputs[0].shape != x.shape or not over_last_axis(mean, x):
            return
        gain = self.reader(scaled)
        if gain and gain.kind == "mul" and self.is_gain(gain, scaled):
            chain.append(gain)
        self.claim(mean.name, [*chain, *self.epilogue(chain[-1])])

    def claim_rounding(self, layer: Node) -> None:
        """What rounds the rows that a layer multiplies as whole numbers: a kernel of its own, as layers share them."""
        nodes = rounded_rows(self.entry, layer.inputs[0]) if layer.kind == "linear" else ()
        if nodes and nodes[-1].name not in self.owner:
            anchor = next(node for node in nodes if node.kind == "amax")
            self.claim(anchor.name, nodes)

    def is_gain(self, node: Node, scaled: Node) -> bool:
        others = [value for value in node.inputs if value.name != scaled.name]
        fixed = [v for v in others if v.name not in self.varying and v not in self.entry.inputs]
        return len(others) == len(fixed) == 1 and fixed[0].shape == scaled.outputs[0].shape[-1:]

    def claim_anchor(self, node: Node) -> None:
        fewer = self.fewer.get(node.name)
        self.claim(node.name, fewer.nodes if fewer else [*weight_nodes(self.entry, node), node])
        if node.kind == ATTENTION or node.kind in ("matmul", "bmm"):
            for value in node.inputs:
                self.claim_views(node, value)
        if node.kind in CONVS:
            self.claim_padding(node, fewer.source if fewer else node.inputs[0])
        if node.kind == ATTENTION:
            self.claim_merged_heads(node)
        elif fuses_epilogue(node):
            self.claim(node.name, self.epilogue(fewer.result if fewer else node))

    def claim_views(self, anchor: Node, value: Value) -> None:
        """The views through which only this kernel reads."""
        producer = self.entry.producers.get(value.name)
        while producer and producer.kind in STRIDED and self.only_reader_is(anchor, producer):
            self.claim(anchor.name, [producer])
            producer = self.entry.producers.get(producer.inputs[0].name)

    def only_reader_is(self, anchor: Node, node: Node) -> bool:
        """Whether a node that is free to be claimed is read by nothing but the anchor's kernel."""
        if node.name in self.owner or node.name in self.returned or node.name not in self.varying:
            return False
        return all(self.owner.get(reader.name) == anchor.name for reader in self.entry.consumers[node.name])

    def claim_padding(self, anchor: Node, source: Value) -> None:
        """Padding with zeros before a convolution is a wider halo of its source."""
        producer = self.entry.producers.get(source.name)
        pads = producer and producer.kind in ("constant_pad_nd", "pad") and is_zero_padding(producer)
        if producer and pads and self.only_reader_is(anchor, producer):
            self.claim(anchor.name, [producer])

    def claim_merged_heads(self, anchor: Node) -> None:
        """(batch, heads, rows, width) to (batch, rows, heads * width), which the kernel can write directly."""
        before = list(self.views(anchor))  # models with shared heads reshape to the shape that is there
        swap = self.reader(before[-1] if before else anchor)
        if swap and swaps_heads(swap) and all(view.outputs[0].shape == anchor.outputs[0].shape for view in before):
            self.claim(anchor.name, [*before, swap, *self.views(swap)])

    def views(self, node: Node) -> Iterator[Node]:
        """The views that follow in single file."""
        following = self.reader(node)
        while following and following.kind in VIEWS:
            yield following
            following = self.reader(following)

    def epilogue(self, anchor: Node) -> list[Node]:
        """The pointwise ops that follow in single file without changing the shape."""
        chain: list[Node] = []
        shape = anchor.outputs[0].shape
        node = self.reader(anchor)
        while node and node.kind in EPILOGUE and node.outputs[0].type == anchor.outputs[0].type and no_alpha(node):
            if not all(joins_epilogue(value.shape, shape) for value in node.inputs):
                break
            chain.append(node)
            node = self.reader(node)
        return chain

    def join_or_start(self, node: Node) -> None:
        """Joins the group of its readers if they are all of one, else starts a group."""
        owners = {self.owner.get(reader.name, "") for reader in self.entry.consumers.get(node.name, ())}
        target = owners.pop() if len(owners) == 1 else ""
        root = self.group[target][0] if target else None
        grouped = root is not None and target == root.name and kind_of(root) in ("pointwise", "move")
        self.claim(target if grouped and self.can_inline(node) else node.name, [node])

    def can_inline(self, node: Node) -> bool:
        """Whether a node costs nothing more when its readers compute what they need of it themselves."""
        if len(node.outputs) > 1 or node.name in self.returned or node.kind == "embedding":
            return False
        return kind_of(node) == "move" or not any(is_repeated(node, r) for r in self.entry.consumers[node.name])

    def ordered_anchors(self) -> Sequence[str]:
        return sorted(self.group, key=lambda anchor: max(self.position[node.name] for node in self.group[anchor]))

    def built(self, name: str) -> Kernel:
        nodes = tuple(sorted(self.group[name], key=lambda node: self.position[node.name]))
        anchor = next(node for node in nodes if node.name == name)
        members = {kind_of(node) for node in nodes}
        mixed = kind_of(anchor) == "move" and "pointwise" in members
        kernel = kernel_of("pointwise" if mixed else kind_of(anchor), anchor, nodes)
        in_int8 = isinstance(self.fewer.get(name), RoundedConv)
        rounded = in_int8 or reads_rounded_rows(self.entry, anchor)
        return replace(kernel, rounded=rounded, returned=self.is_last(nodes[-1]))

    def is_last(self, node: Node) -> bool:
        """Whether nothing reads a node but views that nothing reads."""
        readers = self.entry.consumers.get(node.name, ())
        return all(reader.kind in VIEWS and self.is_last(reader) for reader in readers)
