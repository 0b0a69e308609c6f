"""The page of ARM cycles: ranks, and the spread of a ratio that may be any constant."""

import arm
import pytest
from arm import Row


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(arm, "version", lambda: "version 0")
    convs = [Row("net", "conv", predicted, 2 * predicted) for predicted in (100.0, 300.0, 200.0)]
    return arm.page([*convs, Row("other", "matmul", 50.0, 200.0), Row("other", "matmul", 60.0, 20.0)])


def test_a_constant_factor_is_no_error(page: str) -> None:
    assert "| net | 3 | 1.000 | 0.50 | 0.0% | 0.0% |" in page
    assert "| all, conv | 3 | 1.000 | 0.50 | 0.0% | 0.0% |" in page


def test_ranks_that_differ_show(page: str) -> None:
    assert "| other | 2 | -1.000 |" in page
    assert "5 kernels" in page
