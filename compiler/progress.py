"""Progress on stderr: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

LINE_EVERY = 10.0  # seconds, where there is no terminal

Callback = Callable[[str, float], None]  # what is being done, and the fraction of it that is done


@contextmanager
def shown() -> Iterator[Callback]:
    """A callback whose news the user sees until the block ends.

    What a model's own code or a library prints meanwhile goes to stderr too: stdout is for the result alone.
    """
    console = Console(stderr=True)
    if not console.is_terminal:
        with redirect_stdout(sys.stderr):
            yield _Lines()
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        yield _Bars(progress)


@dataclass
class _Bars:
    """One bar for each thing that is done, the finished ones above; no fraction yet means a moving bar."""

    progress: Progress
    current: str = ""

    def __call__(self, what: str, fraction: float) -> None:
        if what != self.current:
            for task in self.progress.task_ids:
                self.progress.update(task, total=1.0, completed=1.0)
                self.progress.stop_task(task)
            self.progress.add_task(what, total=None)
            self.current = what
        if fraction:
            self.progress.update(self.progress.task_ids[-1], total=1.0, completed=fraction)


@dataclass
class _Lines:
    current: str = ""
    start: float = field(default_factory=time.monotonic)
    last: float = 0.0

    def __call__(self, what: str, fraction: float) -> None:
        now = time.monotonic()
        if what == self.current and now - self.last < LINE_EVERY:
            return
        done = f" {fraction:.0%}" if fraction else ""
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"{now - self.start:5.0f} s  {what}{done}")
        self.current, self.last = what, now
