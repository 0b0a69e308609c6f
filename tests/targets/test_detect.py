"""The host's profile is complete, within the bounds of the possible, and never calibrated by detection alone."""

import os

import pytest

from chipfit.targets.detect import identity, usable_cores
from chipfit.targets.reading import read_folder
from chipfit.targets.registry import FOLDERS, get_target


def test_the_host_is_detected_within_bounds() -> None:
    target = get_target("host")
    rules = read_folder(FOLDERS)[0]["cpu"].rules
    for name, figure in target.profile.figures.items():
        assert rules[name].least <= figure.value <= rules[name].most
        assert figure.unit == rules[name].unit
    assert target.profile.arch
    assert target.profile.triple
    assert target.cpu.vector_bits in (128, 256, 512)
    assert target.cpu.l1_bytes < target.cpu.l2_bytes


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_cores_follow_affinity() -> None:
    allowed, before = os.sched_getaffinity(0), identity()
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert usable_cores() == 1
        assert (identity() == before) == (len(allowed) == 1)
    finally:
        os.sched_setaffinity(0, allowed)
