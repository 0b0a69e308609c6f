"""Slow benchmarks cell by cell: what each found is kept in a file of its own as soon as it is there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, Protocol

from latency import processor

from chipfit.stages import DONE as STAGE
from chipfit.stages import write_json

DONE, INFEASIBLE = 0, 3  # exit codes of commands that are answers; after any other a cell is tried again
INTERRUPTED = 130

Record = Mapping[str, Any]


class Cell(Protocol):
    """Whatever names a cell: the key is its file's name."""

    @property
    def key(self) -> str: ...


@dataclass(frozen=True)
class Ran:
    """How a command of chipfit ended: its exit code, the last line that it wrote to stderr, and what `--json` gave."""

    exit_code: int
    seconds: float
    sentence: str
    found: dict[str, Any] | None

    def record(self) -> dict[str, Any]:
        return {"exit_code": self.exit_code, "seconds": self.seconds, "sentence": self.sentence}


@dataclass(frozen=True)
class Cells:
    """A folder with a JSON file for each cell that was run."""

    folder: Path

    def found(self) -> list[dict[str, Any]]:
        """All records, in the order of their names; those of another make among them."""
        return [json.loads(file.read_text()) for file in sorted(self.folder.glob("*.json"))]

    def finished(self, cell: Cell) -> bool:
        file = self.folder / f"{cell.key}.json"
        return file.exists() and is_answer(json.loads(file.read_text()))

    def fill(self, cells: Sequence[Cell], make: Callable[[Any], Record]) -> None:
        """Runs the cells that aren't finished, in order. A kill loses the one that is running."""
        self.folder.mkdir(parents=True, exist_ok=True)
        missing = [cell for cell in cells if not self.finished(cell)]
        for index, cell in enumerate(missing, 1):
            print(f"{stamp()}  {cell.key}: {index} of {len(missing)} that are missing", flush=True)
            state = {"load": os.getloadavg()[0], "began": stamp(), "machine": machine()}
            write_json(self.folder / f"{cell.key}.json", {**state, **make(cell)})


def prepare(cells: Sequence[Any], make: Callable[[Any], Path]) -> None:
    """Makes ready what cells need on every core: what takes most of the time needs no quiet machine."""
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as pool:
        for done, folder in enumerate(pool.map(make, cells), 1):
            print(f"{stamp()}  {done} of {len(cells)} prepared: {folder.name}", flush=True)


@contextmanager
def at_once(folder: Path) -> Iterator[Path]:
    """A folder to fill that becomes `folder` in the end, or nothing."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as partial:
        yield Path(partial) / "made"
        os.replace(Path(partial) / "made", folder)


def trim(work: Path) -> None:
    """Removes the graphs that passes made, which are no other cell's: hundreds would fill the disk."""
    for file in list(work.glob(f"*/{STAGE}")):
        if "pass" in json.loads(file.read_text())["inputs"]:
            shutil.rmtree(file.parent)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """In Markdown; all but the first column to the right."""
    lines = [columns, ("---", *("---:" for _ in columns[1:])), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def conditions(records: Sequence[Record]) -> str:
    """When, on what, and on how busy a machine the cells were run, as a sentence."""
    if not records:
        return "no cell was run yet."
    days = sorted({one["began"][:10] for one in records})
    loads = sorted(one["load"] for one in records)
    machines = ", ".join(sorted({one["machine"] for one in records}))
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    busy = f"load average before a cell {loads[0]:.1f} to {loads[-1]:.1f}, {median(loads):.1f} in the median"
    return f"{len(records)} cells, {when}; {machines}; {busy}."


def is_answer(record: Record) -> bool:
    """A cell that runs no command has no exit code."""
    return record.get("exit_code", DONE) in (DONE, INFEASIBLE)


def machine() -> str:
    return f"{processor()}, {os.cpu_count()} threads, TVM {version('apache-tvm')}, torch {version('torch')}"


def stamp() -> str:
    return datetime.now(UTC).isoformat(" ", "seconds")


def chipfit(arguments: Sequence[str], log: Path) -> Ran:
    """Runs `chipfit ... --json` in a process of its own; what it tells goes to `log`, which is emptied first."""
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    with log.open("wb") as told:
        command = [str(Path(sys.executable).with_name("chipfit")), *arguments, "--json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=told, check=False)
    lines = log.read_text(errors="replace").strip().splitlines()
    found = json.loads(done.stdout) if done.returncode == DONE else None
    return Ran(done.returncode, time.perf_counter() - start, lines[-1] if lines else "", found)


def interruptible(run: Callable[[], None]) -> None:
    """Runs a benchmark. A SIGTERM ends it as Ctrl-C does, so that no command that it started is left behind."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        run()
    except KeyboardInterrupt:
        print("Interrupted; the same command goes on where it stopped.", file=sys.stderr)
        sys.exit(INTERRUPTED)
