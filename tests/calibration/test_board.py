"""Calibration over TVM's RPC, of a server on this machine that stands for a board."""

from __future__ import annotations

import importlib.util
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chipfit.calibration import board
from chipfit.calibration.at_hand import calibrate
from chipfit.calibration.host import calibrated
from chipfit.calibration.kept import delta_path, recalled
from chipfit.calibration.probe_nets import linears, residuals
from chipfit.calibration.probes import Probe
from chipfit.calibration.subjects import subject
from chipfit.cli import run
from chipfit.codegen.arrays import Array
from chipfit.codegen.library import numpy_weights, written
from chipfit.cross.arguments import write_arguments
from chipfit.cross.board import Board, Times, connected, read_times
from chipfit.cross.toolchain import linker
from chipfit.errors import UserError
from chipfit.targets.cpu import CALL
from chipfit.targets.registry import Target, get_target, read_target

TRIPLE = f"{platform.machine()}-linux-gnu"
ARCH = {"x86_64": "x86-64-v2", "aarch64": "cortex-a53"}
PROBES = (
    Probe("fitted", lambda: linears(16, 40, 8), (1, 4, 16)),
    Probe("images", lambda: residuals(4, 6), (1, 3, 12, 12)),
    Probe("large", lambda: linears(64, 64), (1, 64)),
    Probe("held out", lambda: linears(24, 16), (1, 4, 24), held_out=True),
)
CHIP = """
name = "acme-board"
family = "cpu"
summary = "this machine as a board"
triple = "{triple}"
arch = "{arch}"

[figures]
cores = {{ value = 2, unit = "core", source = "made up", status = "unverified" }}
vector_bits = {{ value = 128, unit = "bit", source = "made up", status = "unverified" }}
vector_registers = {{ value = 16, unit = "register", source = "made up", status = "unverified" }}
l1_size = {{ value = 32, unit = "KiB", source = "made up", status = "unverified" }}
l2_size = {{ value = 512, unit = "KiB", source = "made up", status = "unverified" }}
fp32_peak = {{ value = 50, unit = "GFLOP/s", source = "made up", status = "unverified" }}
memory_bandwidth = {{ value = 10, unit = "GB/s", source = "made up", status = "unverified" }}
"""

pytestmark = pytest.mark.skipif(
    platform.system() != "Linux" or platform.machine() not in ARCH or not importlib.util.find_spec("ziglang"),
    reason="a runner is linked for Linux on x86 or ARM",
)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of TVM's RPC on a free port of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("server") / "log"
    words = ["--host", "127.0.0.1", "--port", str(port), "--port-end", str(port + 1)]
    with log.open("w") as out:
        command = [sys.executable, "-m", "tvm.exec.rpc_server", *words]
        server = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True)
    try:
        wait_for(f"bind to 127.0.0.1:{port}", log)
        yield f"127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGKILL)  # and what it started
        server.wait()


def wait_for(words: str, log: Path) -> None:
    """A connection to see whether it listens would end the server."""
    end = time.monotonic() + 120
    while words not in log.read_text():
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.1)


@pytest.fixture
def chip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Target:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "acme-board.toml"
    file.write_text(CHIP.format(triple=TRIPLE, arch=ARCH[platform.machine()]))
    return read_target(file)


@pytest.fixture
def steady(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fixed times in place of measured ones, which may be long and fit no chip beside other tests."""
    run_there = Board.__call__

    def steadily(there: Board, *given: Any) -> tuple[tuple[Array, ...], Times]:
        outputs, times = run_there(there, *given)
        return outputs, Times(0.02 * len(times.kernels), tuple((name, 0.01) for name, _ in times.kernels))

    monkeypatch.setattr(Board, "__call__", steadily)


@pytest.mark.usefixtures("steady")
def test_a_board_is_calibrated_and_remembered(address: str, chip: Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but what is too large for it."""
    monkeypatch.setattr(board, "MOST_WEIGHTS", 4 * 64 * 64)
    assert recalled(chip).status == "uncalibrated"
    found = board.calibrate(chip, address, probes=PROBES, seconds=0.05)
    assert [name for name, held_out, _, _ in found.rows if held_out] == ["held out"]
    assert {name.partition(":")[0] for name, *_ in found.rows} == {"fitted", "images", "held out"}
    assert all(measured > 0 for _, _, _, measured in found.rows)
    known = calibrated(chip)
    assert known.status == "calibrated"
    assert known.profile.figures["launch_time"] == found.figures["launch_time"]
    assert known.profile.figures["fp32_peak"] == chip.profile.figures["fp32_peak"]
    assert recalled(known) is known


@pytest.mark.usefixtures("steady")
def test_every_kernel_of_ours_is_timed_in_its_place(address: str, chip: Target) -> None:
    made = subject(PROBES[1], chip)
    with connected(address, TRIPLE) as found:
        sample, *kernels = board.there(made, chip, found, 0.2)
    names = [word for one in kernels for word in one.name.partition(": ")[2].split()]
    assert sorted(set(names) & set(made.needs)) == sorted(made.needs)
    assert sample.name == "images"
    assert sample.fixed == {CALL: 1.0}


def test_the_boards_numbers_are_torchs_and_nothing_stays_there(address: str, chip: Target, tmp_path: Path) -> None:
    made = subject(PROBES[0], chip)
    with (
        connected(address, TRIPLE) as found,
        written(made.graph, chip, tmp_path / "library", linker(TRIPLE)) as folder,
    ):
        write_arguments(folder, numpy_weights(made.graph))
        (output,), times = found(folder, [made.input.numpy()], 0.05)
        left = [path.name for path in Path(found.folder).iterdir()]
    with torch.no_grad():
        torch.manual_seed(0)
        torch.randn(PROBES[0].shape)
        expected = PROBES[0].build()(made.input).numpy()
    np.testing.assert_allclose(output, expected, rtol=1e-4, atol=1e-5)
    assert all(0 < ms < float("inf") for ms in (times.call_ms, *dict(times.kernels).values()))
    assert left == ["runner.so"]


def test_a_session_ends_even_if_what_it_was_for_is_kept(address: str) -> None:
    kept = list[Board]()
    for _ in range(2):
        with connected(address, TRIPLE) as found:
            kept.append(found)
    assert kept[0].folder != kept[1].folder


def test_the_runners_report() -> None:
    times = read_times("best_ms 1.5000 median_ms 1.6000 runs 9\nkernel matmul_0 0.5000\nkernel conv_1 0.7000\n")
    assert times.call_ms == 1.5
    assert times.kernels == (("matmul_0", 0.5), ("conv_1", 0.7))


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("host", "127.0.0.1:1", "is this machine"),
        ("cortex-a76", None, "give --rpc HOST:PORT"),
        ("ascend-910b3", None, "no way to time ascend-910b3"),
        ("ascend-910b3", "127.0.0.1:1", "no way to time"),
        ("h100-sxm", "127.0.0.1:1", "no way to time"),
        ("cortex-a76", "somewhere", "is no address of a server"),
    ],
)
def test_what_is_not_at_hand_is_one_sentence(name: str, given: str | None, words: str) -> None:
    with pytest.raises(UserError, match=words):
        calibrate(get_target(name), given)


def test_a_server_that_is_not_there_is_one_sentence(chip: Target, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["targets", "calibrate", str(chip.profile.path), "--rpc", f"127.0.0.1:{port}"]
    assert run(words) == 2
    assert f"start it: python3 -m tvm.exec.rpc_server --host 0.0.0.0 --port {port}" in capsys.readouterr().err
    assert not delta_path(chip).exists()
