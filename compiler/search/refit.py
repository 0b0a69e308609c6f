"""What blocks behind dropped ones make up for, on the run of a probe: the repair of `compensate`, place by place.

Each layer is refitted on what reaches it once those before it are refitted. All that lies before is taken from the
probe's own run, and from one refitted layer to the next only what is between them is run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import Tensor

from chipfit.ir.blocks import Block
from chipfit.ir.emit import execute, run
from chipfit.ir.graph import Graph
from chipfit.passes.factorize import is_factor
from chipfit.passes.layers import layers
from chipfit.passes.precision import autocast
from chipfit.passes.repair import DAMPING, NormalEquations, refitted
from chipfit.passes.streams import Stream, streams
from chipfit.search.probe import Probe


def refits(probe: Probe, changed: Graph, near: Iterable[Block]) -> dict[str, Tensor]:
    """New parameters for the last layers of the `near` blocks, in order, by which the stream becomes the whole graph's.

    `changed` is in full size, what it lacks masked.
    """
    wanted, known, found = (probe.taught or probe).reference, probe.unmoved(changed), dict[str, Tensor]()
    held = layers(changed)
    for name, stream in streams(changed.forward, near).items():
        if name not in held or is_factor(held[name].weight):
            continue
        layer, state = held[name], {**changed.state, **found}
        alive = {**state, **_run(probe, changed.with_state(found), [layer.input.name, *_read(stream)], known)}
        given, missing = alive[layer.input.name], stream.missing(alive, wanted[stream.exit])
        rows = [None, None] if probe.relevant is None else _parts(probe.relevant)
        parts = zip(_parts(given), _parts(missing), rows, strict=False)
        found |= refitted(layer, state, [NormalEquations.at(layer, *part) for part in parts], DAMPING)
        alive |= found
        with autocast():
            alive |= execute(layer.node, alive)
        known[stream.exit] = stream.after(alive).to(wanted[stream.exit].dtype)
    return found


def _parts(batch: Tensor) -> list[Tensor]:
    """One to fit on, and one to see whether that helps, if there is more than one example."""
    return [part for part in batch.tensor_split([len(batch) * 4 // 5]) if len(part)]


def _read(stream: Stream) -> list[str]:
    """What its nodes read that none of them gives."""
    given = {value.name for node in stream.path for value in node.outputs}
    return [value.name for node in stream.path for value in node.inputs if value.name not in given]


def _run(probe: Probe, graph: Graph, names: list[str], known: Mapping[str, Tensor]) -> dict[str, Tensor]:
    computed = {value.name: value for node in graph.forward.nodes for value in node.outputs}
    outputs = tuple(computed[name] for name in dict.fromkeys(names) if name in computed)
    with autocast():
        return run(graph.with_entry(replace(graph.forward, outputs=outputs)), *probe.inputs, given=known)
