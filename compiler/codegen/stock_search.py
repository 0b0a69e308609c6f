"""TVM's own search (meta_schedule) for the schedule of a function that no generator of ours made."""

from __future__ import annotations

import logging
import tempfile
from typing import Any

import tvm
from tvm.s_tir import meta_schedule

BATCH = 16  # candidates that are built and timed at a time


def searched(function: Any, target: Any, trials: int) -> Any | None:
    """The function at the fastest of `trials` schedules, timed on this machine; None if none of them ran.

    Minutes, the first of them for TVM to import its search.
    """
    module = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
    logging.getLogger("tvm.s_tir.meta_schedule").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            "strategy": "replay-trace",
            "cost_model": "random",
            "num_trials_per_iter": min(BATCH, trials),
            "seed": 0,
        }
        database = meta_schedule.tir_integration.tune_tir(module, target, folder, trials, **settings)
        schedule = meta_schedule.tir_integration.compile_tir(database, module, target)
    return schedule.mod["main"] if schedule else None
