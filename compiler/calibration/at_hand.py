"""Calibration of what is at hand: this machine, its GPU, or a board that a server of TVM's RPC runs on."""

from __future__ import annotations

from chipfit.calibration import board, gpu, host
from chipfit.errors import UserError
from chipfit.passes.base import Progress, silent
from chipfit.targets.calibrate import Calibration
from chipfit.targets.registry import Target


def calibrate(target: Target, address: str | None = None, progress: Progress = silent) -> Calibration:
    """Times a chip and keeps what was found. Raises UserError for one that is not here, or that nothing can time."""
    if target.is_host and address:
        raise UserError(f"{target.name} is this machine: name the chip of the board at {address}.")
    if target.is_host:
        return host.calibrate(target, progress)
    if target.family == "cpu" and address:
        return board.calibrate(target, address, progress)
    if target.family == "cpu":
        raise UserError(f"{target.name} is not this machine: give --rpc HOST:PORT of a server of TVM's RPC on it.")
    if target.family == "gpu" and not address:
        return gpu.calibrate(target, progress)
    raise UserError(f"chipfit has no way to time {target.name} ({target.family}); its costs stay uncalibrated.")
