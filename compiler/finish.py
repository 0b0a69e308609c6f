"""The end of a compilation: what came out is checked against torch, measured, judged and written down."""

from __future__ import annotations

import platform
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from chipfit.artifact import Artifact, write_manifest
from chipfit.chips import chips_json, over_chips
from chipfit.codegen.check import check
from chipfit.codegen.runtime import Library, read_record
from chipfit.cross.compile import check_emulated
from chipfit.errors import InfeasibleBudgetError
from chipfit.ir import store
from chipfit.ir.configuration import UNCHANGED
from chipfit.ir.graph import Graph
from chipfit.job import Job
from chipfit.passes.pipeline import Pipeline
from chipfit.quality import Quality
from chipfit.report import write_report
from chipfit.stages import Done, replace_folder
from chipfit.targets.cost import Cost
from chipfit.targets.energy import STATUS as ENERGY_STATUS
from chipfit.targets.registry import Target

LAYERS = 8  # the slowest, which the report tells the limits of on every chip
TOOLS = {"chipfit": "chipfit", "tvm": "apache-tvm", "torch": "torch"}  # and the packages that they come in


def finish(job: Job, lineage: Mapping[str, Any], keep: float | None, out: Path) -> Artifact:
    """The artifact in `out`, in one step in place of an older one.

    Raises InfeasibleBudgetError if the budget isn't met or less than `keep` of the teacher's quality is left; the
    artifact is written first.
    """
    folder = out.with_name(f"{out.name}.new")
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(job.workbench.library(job.result).folder / "library", folder)
    deployed = job.workbench.deployed(job.result)
    store.save(deployed, folder)
    job.study.progress("comparing with torch", 0.0)
    error = checked(job, folder, deployed)
    chips = chips_json(over_chips(deployed), LAYERS)
    record = {**manifest(job, keep, dict(lineage)), "max_abs_error": error, "stock": stock(job, folder), "chips": chips}
    write_report(folder, record)
    write_manifest(folder, record)
    replace_folder(folder, out)
    if not record["certificate"]["met"]:
        shares = {name: limit["used"] for name, limit in record["certificate"]["limits"].items()}
        over = ", ".join(f"{name} takes {share:.1%} of it" for name, share in shares.items() if share > 1)
        raise InfeasibleBudgetError(f"{job.budget} isn't met by the artifact: {over}; loosen it by as much.")
    kept = record["result"]["quality"]["retention"]
    if keep is not None and kept < keep:
        raise InfeasibleBudgetError(
            f"{job.budget} keeps {kept:.1%} of the teacher's quality, not {keep:.1%}: loosen it or recover longer."
        )
    return Artifact(out)


def checked(job: Job, folder: Path, deployed: Graph) -> float | None:
    """The library's error against torch with the final weights; None where nothing here can run it."""
    if job.target.is_host:
        return check(Library.load(folder, folder / store.STATE), deployed, job.study.inputs)
    return check_emulated(folder, deployed, job.study.inputs)


def stock(job: Job, folder: Path) -> list[dict[str, Any]]:
    """The functions left to TVM's own lowering with their share of the kernels' time, the longest first.

    The share is None where nothing here can run them; then each entry names ATen's ops.
    """
    record = read_record(folder)
    if not job.target.is_host:
        groups = dict.fromkeys("+".join(entry["stock"]) for entry in record["kernels"] if "stock" in entry)
        return [{"function": group, "share": None} for group in groups]
    library = Library.load(folder, folder / store.STATE)
    library(*(tensor.numpy() for tensor in job.study.inputs))
    times, ours = library.kernel_times(), {entry["kernel"] for entry in record["kernels"] if "kernel" in entry}
    shares: dict[str, float] = {}
    for name, milliseconds in times:
        if not re.fullmatch(rf"({'|'.join(ours)})_\d+", name):
            shares[name] = shares.get(name, 0.0) + milliseconds / sum(time for _, time in times)
    return [{"function": name, "share": shares[name]} for name in sorted(shares, key=lambda name: -shares[name])]


def manifest(job: Job, keep: float | None, lineage: dict[str, Any]) -> dict[str, Any]:
    """The record of the compilation, all but its files. Milliseconds, bytes, millijoules."""
    pair = job.measured
    qualities = {name: asdict(quality) for name, quality in judged(job).items()}
    before, after = job.landscape.cost(UNCHANGED), job.landscape.cost(job.configuration)
    made = job.target.cost_model.cost(
        job.workbench.deployed(job.result), batch=job.study.batch
    )  # with what passes did that the search doesn't know
    result = costs(made, pair.result_ms if pair else None) | {"peak_memory_bytes": job.workbench.peak_bytes(job.result)}
    return {
        "source": lineage.get("source", ""),
        "target": chip(job.target),
        "budget": {"limits": [str(limit) for limit in job.budget.limits], "keep": keep},
        "baseline": {
            **costs(before, pair.baseline_ms if pair else None),
            "peak_memory_bytes": job.workbench.peak_bytes(job.teacher),
            "measured_mj": job.workbench.measured_mj(job.teacher),
            "quality": qualities["teacher"],
        },
        "result": {**result, "measured_mj": job.workbench.measured_mj(job.result), "quality": qualities["result"]},
        "before_recovery": {"quality": qualities["before recovery"]},
        "predicted": predicted(job, before, after),
        "certificate": certificate(job, result),
        "strategy": job.approach.name,
        "seed": job.study.seed,
        "configuration": job.configuration.to_json(),
        "passes": [{"pass": str(Pipeline((one,))), **took(stage)} for one, stage in job.passed],
        "lineage": {
            **lineage,
            **job.study.origin,
            **stamp(),
        },
    }


def stamp() -> dict[str, str]:
    """When and by what."""
    versions = {name: version(package) for name, package in TOOLS.items()}
    return {"made": datetime.now(UTC).isoformat(timespec="seconds"), **versions}


def chip(target: Target) -> dict[str, Any]:
    """What the library is for, and was timed on if it was."""
    machine = platform.machine() if target.is_host else target.profile.triple.partition("-")[0]
    processor = {"processor": target.profile.summary, "threads": target.cpu.threads}
    return {"name": target.name, "status": target.status, "machine": machine, **processor}


def predicted(job: Job, before: Cost, after: Cost) -> dict[str, Any]:
    """What the search expected: the cost model's figure times what it was off by on the uncompressed model."""
    scale = job.baseline["latency"] / before.latency_ms
    interval = [scale * bound for bound in after.interval_ms] if after.interval_ms else None
    more = {"baseline_ms": scale * before.latency_ms, "interval_ms": interval, "status": after.status, "scale": scale}
    return {**costs(after, scale * after.latency_ms), **more}


def took(stage: Done) -> dict[str, Any]:
    return {name: value for name, value in stage.json().items() if name != "configuration"}


def costs(cost: Cost, latency_ms: float | None) -> dict[str, Any]:
    return {
        "latency_ms": latency_ms,
        "peak_memory_bytes": cost.peak_memory_bytes,
        "weight_bytes": cost.weight_bytes,
        "energy_mj": cost.energy_mj,
    }


def certificate(job: Job, result: Mapping[str, Any]) -> dict[str, Any]:
    """Which limits hold, and how that is known; the binding one is the tightest."""
    pair, cost = job.measured, job.landscape.cost(job.configuration)
    ratio = pair.ratio if pair else cost.latency_ms / job.baseline["latency"]
    bounded = not pair and job.budget.in_milliseconds and cost.interval_ms is not None
    got = {
        "latency": cost.upper_ms if bounded else ratio * job.baseline["latency"],
        "memory": result["peak_memory_bytes"],
        "size": result["weight_bytes"],
        "energy": result["energy_mj"],
    }
    limits = job.budget.absolute(job.baseline)
    used = {quantity: got[quantity] / limit for quantity, limit in limits.items()}
    timed = "measured" if pair else f"{'predicted upper bound' if bounded else 'predicted'}, {job.target.status}"
    sources = {"latency": timed, "size": "measured", "memory": "planned", "energy": f"predicted, {ENERGY_STATUS}"}
    return {
        "met": all(share <= 1 for share in used.values()),
        "binding": max(used, key=lambda quantity: used[quantity]),
        "limits": {quantity: {"used": used[quantity], "by": sources[quantity]} for quantity in limits},
        "latency_ratio": ratio,
        "solver_gap": job.choice.gap,
        "attempts": [asdict(one) for one in job.choice.attempts],
    }


def judged(job: Job) -> dict[str, Quality]:
    """Quality of the teacher, of what the model would be without its recovery, and of the result."""
    return {
        "teacher": job.quality(()),
        "before recovery": job.quality(job.unrecovered),
        "result": job.quality(job.passed),
    }
