"""What this machine is: vector units and caches as the system tells them, peak and bandwidth from a short probe."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import MappingProxyType

import numpy as np

from chipfit.targets.profile import Figure, Profile

CPUINFO = Path("/proc/cpuinfo")
SYSTEM = Path("/sys/devices/system/cpu")


def detect_host(base: Profile) -> Profile:
    """`base` with this machine's figures and LLVM's names for it. Probes for about half a second, once a process."""
    from tvm.target import codegen  # half a second of import that no other chip needs

    threads = usable_cores()
    figures = {
        **base.figures,
        **_unit_figures(),
        **_vector_figures(_features()),
        **_cache_figures(),
        **_probe(threads),
    }
    figures["cores"] = Figure(threads, "core", "affinity, control group and topology of this process", "measured")
    return replace(
        base,
        summary=processor(),
        figures=figures,
        triple=codegen.llvm_get_system_triple(),
        arch=codegen.llvm_get_system_cpu(),
        features=tuple(sorted(LLVM_FEATURES[feature] for feature in LLVM_FEATURES.keys() & _features())),
    )


def processor() -> str:
    """The processor's name as the system tells it, the kind of machine if it doesn't."""
    return _cpu_field("model name") or platform.processor() or platform.machine()


def identity() -> str:
    """Names what kernel times depend on: processor model, its features, and how many cores this process may use."""
    parts = (platform.machine(), _cpu_field("model name"), _cpu_field("flags", "Features"), str(usable_cores()))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def usable_cores() -> int:
    """Physical cores that this process may run on, and no more than its control group's share of time."""
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    allowed = os.sched_getaffinity(0)
    cores = {_read(SYSTEM / f"cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in allowed}
    return max(1, min(len(cores), _quota()))


def _quota() -> int:
    """Whole cores that control group 2 grants (https://docs.kernel.org/admin-guide/cgroup-v2.html, cpu.max)."""
    quota = _read(Path("/sys/fs/cgroup/cpu.max")).split()
    return round(int(quota[0]) / int(quota[1])) if quota and quota[0] != "max" else 2**20


def _read(path: Path) -> str:
    return path.read_text().strip() if path.is_file() else ""


def _cpu_field(*names: str) -> str:
    """The first processor's entry of that name in /proc/cpuinfo, empty if there is none."""
    match = re.search(rf"^({'|'.join(names)})\s*:\s*(.*)$", _read(CPUINFO), re.MULTILINE)
    return match.group(2) if match else ""


def _vector_figures(features: frozenset[str]) -> Mapping[str, Figure]:
    """Width and number of vector registers by the instruction set (Intel SDM volume 1, Arm ARM)."""
    if platform.machine() in ("aarch64", "arm64"):
        bits, registers, name = 128, 32, "Advanced SIMD"
    elif "avx512f" in features and "avx512vl" in features:
        bits, registers, name = 512, 32, "AVX-512"
    elif "avx2" in features and "fma" in features:
        bits, registers, name = 256, 16, "AVX2"
    else:
        bits, registers, name = 128, 16, "baseline vectors"
    source = f"{name}, from the processor's features"
    return {
        "vector_bits": Figure(bits, "bit", source, "derived"),
        "vector_registers": Figure(registers, "register", source, "derived"),
    }


def has_amx() -> bool:
    """Whether this processor multiplies tiles of bfloat16, and rounds vectors to it."""
    return {"amx_tile", "amx_bf16", "avx512_bf16"} <= _features()


def has_int8() -> bool:
    """Whether this processor multiplies tiles of int8, and vectors of them."""
    return {"amx_tile", "amx_int8", "avx512_vnni"} <= _features()


def _features() -> frozenset[str]:
    return frozenset(_cpu_field("flags", "Features").split())


def _unit_figures() -> Mapping[str, Figure]:
    """TDPBF16PS and TDPBUSD start every 16 cycles, VPDPBUSD like a multiply-add of float32 (Intel 64 and IA-32
    Optimization Reference Manual, chapters on AMX and on VNNI); so does SDOT (Arm's optimization guides)."""
    amx = "16 x 16 x {} in 16 cycles, Intel's optimization manual; the unit from the processor's features"
    features, figures = _features(), {}
    if has_amx():
        figures["bf16_mac_per_cycle"] = Figure(512, "MAC/cycle", amx.format(32), "derived")
    if has_int8():
        figures["matrix_int8_mac_per_cycle"] = Figure(1024, "MAC/cycle", amx.format(64), "derived")
    for feature, bits in DOT_PRODUCTS.items():
        if feature in features and "int8_mac_per_cycle" not in figures:
            source = f"two dot products of {bits} bits a cycle; {feature} among the processor's features"
            figures["int8_mac_per_cycle"] = Figure(2 * bits // 8, "MAC/cycle", source, "derived")
    for feature, bits in FLOAT16.items():
        if feature in features:
            source = f"two multiply-adds of {bits} bits a cycle; {feature} among the processor's features"
            figures["fp16_flop_per_cycle"] = Figure(4 * bits // 16, "FLOP/cycle", source, "derived")
    return figures


# Linux's names of what generated code uses -> LLVM's. LLVM goes by the model's number, which a virtual machine may make
# up: one with AMX was seen to call itself a Rocket Lake, which has none.
LLVM_FEATURES: Mapping[str, str] = MappingProxyType(
    {
        **{name: name for name in ("avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")},
        **{"avx_vnni": "avxvnni", "avx512_vnni": "avx512vnni", "avx512_bf16": "avx512bf16"},
        **{"avx512_fp16": "avx512fp16", "amx_tile": "amx-tile", "amx_bf16": "amx-bf16", "amx_int8": "amx-int8"},
        **{"asimddp": "dotprod", "asimdhp": "fullfp16"},
    }
)

# Feature -> bits of the widest vector that it multiplies, widest first.
DOT_PRODUCTS = MappingProxyType({"avx512_vnni": 512, "avx_vnni": 256, "asimddp": 128})
FLOAT16 = MappingProxyType({"avx512_fp16": 512, "asimdhp": 128})


def _cache_figures() -> Mapping[str, Figure]:
    """Sizes of the data caches in KiB; where the system does not tell, small ones that every recent core has."""
    found = {
        "l1_size": Figure(32, "KiB", "assumed", "unverified"),
        "l2_size": Figure(256, "KiB", "assumed", "unverified"),
    }
    for index in sorted(SYSTEM.glob("cpu0/cache/index*")):
        level, kind, size = (_read(index / name) for name in ("level", "type", "size"))
        if kind in ("Data", "Unified") and size.endswith("K"):
            found[f"l{level}_size"] = Figure(int(size[:-1]), "KiB", "sysfs", "measured")
    return found


@cache
def _probe(threads: int) -> Mapping[str, Figure]:
    """fp32 peak by a matrix product and bandwidth by copies, both through numpy: a first guess before calibration."""
    matrix = np.ones((768, 768), np.float32)
    flops = 2 * 768**3 / _best_seconds(lambda: matrix @ matrix)
    bandwidth = 2 * _COPY_BYTES * threads / _best_seconds(_copier(threads))
    source = "half-second probe through numpy"
    return {
        "fp32_peak": Figure(flops / 1e9, "GFLOP/s", source, "measured"),
        "memory_bandwidth": Figure(bandwidth / 1e9, "GB/s", source, "measured"),
    }


_COPY_BYTES = 32 * 2**20


def _copier(threads: int) -> Callable[[], object]:
    """A function that copies `_COPY_BYTES` in each thread; numpy releases the interpreter lock while it copies."""
    pairs = [(np.ones(_COPY_BYTES, np.uint8), np.empty(_COPY_BYTES, np.uint8)) for _ in range(threads)]

    def copy() -> None:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda pair: np.copyto(pair[1], pair[0]), pairs))

    return copy


def _best_seconds(function: Callable[[], object], seconds: float = 0.2) -> float:
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    return best
