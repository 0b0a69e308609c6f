"""TVM's thread pool: how many threads of it run, and on which processors."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path

from chipfit.codegen.ffi import ffi

TASKS = Path("/proc/self/task")  # a folder for each thread of this process, on Linux

Part = Callable[[], None]


def start_threads(count: int) -> Part:
    """Lets TVM's thread pool, one for each thread that calls, use `count` threads; returns what to do before a call.

    TVM would bind the caller to a processor too, and with it whatever threads torch starts later: all of them on one.
    So it binds none. But a worker that wakes after a rest often does so on the caller's processor, and Linux takes some
    15 ms to part them: networks of 2 ms were seen to take 4 where another runtime had run in between. Where there are
    as many threads as processors each worker has its own, and the caller leaves it before it calls.
    """
    os.environ |= {"TVM_BIND_THREADS": "0", "TVM_NUM_THREADS": str(max(count, os.cpu_count() or 1))}
    workers = _workers(threading.get_ident())
    _configure(count)
    if not hasattr(os, "sched_setaffinity"):
        return _nothing
    allowed = os.sched_getaffinity(0)
    if not 1 < count == len(allowed) == len(workers) + 1:
        return _nothing
    mine, *others = sorted(allowed)
    for worker, processor in zip(workers, others, strict=True):
        os.sched_setaffinity(worker, {processor})
    current = ctypes.CDLL(None).sched_getcpu

    def part() -> None:
        if current() == mine or mine not in (now := os.sched_getaffinity(0)):
            return
        os.sched_setaffinity(0, {mine})
        os.sched_setaffinity(0, now)

    return part


def _nothing() -> None:
    """Wherever threads are left to run where they like."""


@cache
def _workers(caller: int) -> tuple[int, ...]:
    """Starts the pool of the thread `caller`, and says which threads of the system's it has.

    It never grows once it has started, so it starts with a thread for each processor, or with as many as are asked for
    where these are more; those not used sleep. None are known if TVM started it before, or where the system does not
    tell.
    """
    before = _threads()
    _configure(1)
    return tuple(sorted(_threads() - before))


def _configure(count: int) -> None:
    ffi().get_global_func("runtime.config_threadpool")(-1, count)


def _threads() -> frozenset[int]:
    return frozenset(int(task.name) for task in TASKS.iterdir()) if TASKS.is_dir() else frozenset()
