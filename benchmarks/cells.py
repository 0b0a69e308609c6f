"""Slow benchmarks cell by cell: what each found is a line of a file as soon as it is there."""

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
from typing import Any, Protocol, TypeVar

from chipfit.stages import DONE as STAGE
from chipfit.targets.detect import processor

DONE, INFEASIBLE = 0, 3  # exit codes of commands that are answers; after any other a cell is tried again
INTERRUPTED = 130

Record = Mapping[str, Any]


class Cell(Protocol):
    """Whatever names a cell."""

    @property
    def key(self) -> str: ...


AnyCell = TypeVar("AnyCell", bound=Cell)


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
    """A file with a line of JSON for each cell that was run. Of lines with the same key the last one counts."""

    file: Path

    def found(self) -> list[dict[str, Any]]:
        """All records, in the order of their keys; those of another make among them."""
        kept = {record["key"]: record for record in map(json.loads, self._whole.splitlines())}
        return [kept[key] for key in sorted(kept)]

    def missing(self, cells: Iterable[AnyCell]) -> list[AnyCell]:
        """Those that have no answer yet."""
        answered = {record["key"] for record in self.found() if is_answer(record)}
        return [cell for cell in cells if cell.key not in answered]

    def fill(self, cells: Sequence[Cell], make: Callable[[Any], Record]) -> None:
        """Runs the cells that aren't finished, in order. A kill loses the one that is running."""
        missing = self.missing(cells)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("ab") as file:
            file.truncate(len(self._whole.encode()))
        for index, cell in enumerate(missing, 1):
            print(f"{stamp()}  {cell.key}: {index} of {len(missing)} that are missing", flush=True)
            state = {"load": os.getloadavg()[0], "began": stamp(), "machine": machine(), "commit": commit()}
            record = {"key": cell.key, **state, **make(cell)}
            with self.file.open("a") as file:
                file.write(f"{json.dumps(record, sort_keys=True)}\n")

    @property
    def _whole(self) -> str:
        """The file without a last line that a kill cut off."""
        text = self.file.read_text() if self.file.exists() else ""
        return text[: text.rfind("\n") + 1]


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
    """When, on what, by which commits and on how busy a machine the cells were run, as a sentence."""
    if not records:
        return "no cell was run yet."
    days = sorted({one["began"][:10] for one in records})
    loads = sorted(one["load"] for one in records)
    machines = ", ".join(sorted({one["machine"] for one in records}))
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    busy = f"load average before a cell {loads[0]:.1f} to {loads[-1]:.1f}, {median(loads):.1f} in the median"
    commits = ", ".join(dict.fromkeys(one["commit"] for one in sorted(records, key=lambda one: one["began"])))
    return f"{len(records)} cells, {when}, by {commits}; {machines}; {busy}."


def is_answer(record: Record) -> bool:
    """A cell that runs no command has no exit code."""
    return record.get("exit_code", DONE) in (DONE, INFEASIBLE)


def machine() -> str:
    return f"{processor()}, {os.cpu_count()} threads, TVM {version('apache-tvm')}, torch {version('torch')}"


def commit() -> str:
    """Of this checkout, with a plus where its code was changed since; pages are no code."""
    git = ["git", "-C", str(Path(__file__).parents[1])]
    named = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run([*git, "diff", "--quiet", "HEAD", "--", "*.py", "*.toml"], check=False).returncode
    return f"{named.stdout.strip()}{'+' if changed else ''}" if named.returncode == 0 else "no checkout"


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
