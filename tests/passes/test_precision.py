"""bfloat16 is for processors that are faster with it."""

import pytest
import torch

from chipfit.passes import precision


@pytest.mark.parametrize(
    ("able", "seconds", "used"),
    [
        ({"avx512_bf16": True}, 1.8, False),  # as on a Xeon without its matrix unit
        ({"avx512_bf16": True}, 0.6, True),
        ({"amx_bf16": True}, 0.1, True),
        ({"avx2": True, "amx_bf16": False}, 0.1, False),
    ],
)
def test_instructions_alone_do_not_make_it_fast(able, seconds, used, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    monkeypatch.setattr(precision, "product_seconds", lambda *types: {torch.float32: 1.0, torch.bfloat16: seconds})
    precision.fast_bfloat16.cache_clear()
    try:
        assert precision.fast_bfloat16() is used
        with precision.autocast():
            assert torch.is_autocast_enabled("cpu") is used
    finally:
        precision.fast_bfloat16.cache_clear()


def test_products_of_each_type_are_timed_on_one_thread_and_leave_the_others():
    before, seen = torch.get_num_threads(), set()
    product = torch.mm
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch, "mm", lambda *both: seen.add(torch.get_num_threads()) or product(*both))
        found = precision.product_seconds(torch.float32, torch.bfloat16)
    assert found.keys() == {torch.float32, torch.bfloat16}
    assert all(seconds > 0 for seconds in found.values())
    assert (seen, torch.get_num_threads()) == ({1}, before)
