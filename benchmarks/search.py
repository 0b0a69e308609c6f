"""Compares strategies at equal measured latency, before and after recovery, and writes docs/benchmarks/search.md.

Each cell is one `chipfit compile --strategy`, so that all but the choice is alike: data, repair, measuring, recovery. A
cell's result is kept in docs/benchmarks/search.jsonl: the same command goes on after a kill or in another checkout, and
the page shows what there is.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

import search_page
from cells import DONE, Cells, Ran, Record, chipfit, interruptible, trim
from search_page import INT8, OURS

from chipfit.search.budget import parse_share
from chipfit.search.strategies.registry import available_strategies

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "build" / "bench-search"
PAGE = ROOT / "docs" / "benchmarks" / "search.md"
MODELS = ("resnet20", "efficientnet_lite0", "minilm", "smollm2")
CONVOLUTIONAL = ("resnet20", "efficientnet_lite0")
PACKAGES = {  # and the models that each takes
    "benchmarks/fastnas.py:FastNas": CONVOLUTIONAL,
    "benchmarks/torch_pruner.py:TorchPruning": CONVOLUTIONAL,
}
IN_INT8 = ("shortgpt", "sleb", "uniform", "ziplm")  # of the others, those that are run in int8 too
BUDGETS = ("70%", "50%", "35%")
SEEDS = (0, 1, 2)
STEPS = {"resnet20": 300, "efficientnet_lite0": 300, "minilm": 200, "smollm2": 100}  # of recovery
KEPT = {  # of the manifest
    **dict.fromkeys(("baseline", "result"), ("quality", "latency_ms", "weight_bytes")),
    **{"before_recovery": ("quality",), "certificate": ("latency_ratio",), "lineage": ("synthetic_data",)},
}


@dataclass(frozen=True)
class Cell:
    """One compilation: a model at a share of its latency, chosen for by an arm, with so many steps of recovery."""

    model: str
    budget: str
    arm: str
    seed: int
    steps: int

    @property
    def key(self) -> str:
        return f"{plain(self.model)}-{self.budget.rstrip('%')}-{plain(self.arm)}-seed{self.seed}-{self.steps}steps"

    @property
    def arguments(self) -> list[str]:
        last = ",quantize{activations=true}" if self.arm.endswith(INT8) else ""
        options = {
            "--budget": f"latency={self.budget}",
            "--passes": f"factorize,prune-axes,drop-blocks,compensate,distill{{steps={self.steps}}}{last}",
            "--strategy": self.arm.removesuffix(INT8),
            "--seed": str(self.seed),
            "--out": str(FOLDER / plain(self.model)),
        }
        return ["compile", self.model, *(word for pair in options.items() for word in pair)]


NAMES = tuple(field.name for field in fields(Cell))


def plain(name: str) -> str:
    return re.sub(r"[^\w.]", "_", name)


def grid(
    models: Iterable[str], budgets: Iterable[str], arms: Iterable[str], seeds: Iterable[int], steps: Mapping[str, int]
) -> list[Cell]:
    """Every cell; all of the first seed come first, so that a run that is cut short has something of everything."""
    found = product(seeds, models, budgets, arms)
    return [Cell(model, budget, arm, seed, steps[model]) for seed, model, budget, arm in found if takes(arm, model)]


def arms() -> list[str]:
    """Ours, with precision and without, then the others by name, other packages, and others in int8."""
    others = sorted(available_strategies().keys() - {OURS})
    return [OURS + INT8, OURS, *others, *PACKAGES, *(name + INT8 for name in IN_INT8)]


def takes(arm: str, model: str) -> bool:
    """Whether an arm can narrow a model at all."""
    return arm not in PACKAGES or model in PACKAGES[arm]


def made(cell: Cell) -> Record:
    ran = chipfit(cell.arguments, FOLDER / "logs" / f"{cell.key}.log")
    trim(FOLDER / f"{plain(cell.model)}.work")
    return {**asdict(cell), **record(ran)}


def record(ran: Ran) -> dict[str, Any]:
    """What is kept of a compilation; of its configuration how many axes are narrowed, and what is dropped."""
    if ran.exit_code != DONE or ran.found is None:
        return ran.record()
    chosen = ran.found["configuration"]
    rounded = chosen["rounded"] and len(chosen["rounded"])  # None: all of the model, where the arm rounds at all
    removed = {"narrowed": len(chosen["widths"]), "dropped": chosen["dropped"], "rounded": rounded}
    kept = {part: {name: ran.found[part].get(name) for name in names} for part, names in KEPT.items()}
    return {**ran.record(), "removed": removed, **kept}


def expected(records: Sequence[Record]) -> list[Cell]:
    """What the page is to show: every model at each number of steps that it has cells of, and all other cells."""
    known = dict.fromkeys((one["model"], one["steps"]) for one in records)
    fresh = [(model, STEPS[model]) for model in MODELS if all(model != name for name, _ in known)]
    order = sorted([*known, *fresh], key=lambda one: (*MODELS, one[0]).index(one[0]))
    wanted = [cell for model, steps in order for cell in grid([model], BUDGETS, arms(), SEEDS, {model: steps})]
    made = [Cell(**{name: one[name] for name in NAMES}) for one in records]
    return list(dict.fromkeys([*wanted, *made]))


def write_page(records: Sequence[Record]) -> None:
    found = search_page.sections(records, [{**asdict(cell), "key": cell.key} for cell in expected(records)])
    PAGE.with_name(search_page.PICTURE).write_text(search_page.drawn(found), encoding="utf-8")
    PAGE.write_text(search_page.page(found), encoding="utf-8")
    print(PAGE.read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=MODELS, help="none: only the page is written")
    parser.add_argument("--budgets", nargs="+", type=budget, default=BUDGETS, help="of the latency, as 50%%")
    parser.add_argument("--arms", nargs="+", choices=arms(), default=arms(), help="strategies")
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS)
    parser.add_argument("--steps", type=int, help="of recovery; its own number for each model")
    options = parser.parse_args()
    cells = Cells(PAGE.with_suffix(".jsonl"))
    steps = dict.fromkeys(options.models, options.steps) if options.steps else STEPS
    cells.fill(grid(options.models, options.budgets, options.arms, options.seeds, steps), made)
    write_page(cells.found())


def budget(text: str) -> str:
    parse_share(text)
    return text


if __name__ == "__main__":
    interruptible(main)
