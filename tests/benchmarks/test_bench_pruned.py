"""Pages of randomly pruned networks: ratios by the best other runtime, and configurations that a cell names again."""

import cost
import pruned
import pytest

STATE = {"load": 0.5, "began": "2026-11-22 10:00:00+00:00", "machine": "a machine", "commit": "abc"}


def network(model: str, seed: int, ours: float, threads: int = 2) -> dict[str, object]:
    medians = {"chipfit": ours, "torch": 4.0, "onnxruntime": 2.0}
    return {**STATE, "key": f"{model}-{seed}", "model": model, "threads": threads, "seed": seed, "medians_ms": medians}


def test_ratios_are_by_the_best_other_runtime() -> None:
    assert pruned.ratio(network("resnet20", 0, 1.0)) == 0.5


def test_the_page_counts_what_is_slow() -> None:
    found = [network("resnet20", 0, 1.0), network("minilm", 0, 2.3), network("resnet20", 1, 4.0, threads=1)]
    page = pruned.page(found)
    assert "| minilm | 1 | 1.15 | 1.15 | 1.15 | 1 |" in page
    assert "| all | 2 | 0.76 | 0.50 | 1.15 | 1 |" in page
    assert page.index("## 1 thread\n") < page.index("## 2 threads")


def row(model: str, measured: float, predicted: float, calm: bool = True) -> cost.Row:
    estimates = {cost.OURS: predicted, cost.CLOCKED: measured}
    estimates |= {cost.ROOFLINE: 2 * predicted, cost.FLOPS: 1e9 * predicted}
    return cost.Row(model, measured, calm, estimates, 5.0)


def test_errors_are_of_undisturbed_configurations_alone() -> None:
    rows = [
        row("resnet20", 1.0, 1.1),
        row("resnet20", 2.0, 2.2),
        row("minilm", 4.0, 4.4),
        row("minilm", 9.0, 1.0, False),
    ]
    page = cost.page([STATE] * 4, rows, threads=2)
    assert "3 configurations of 2 networks" in page
    assert "1 more configurations are left out" in page
    assert "in 0 of 3 cases" in page
    assert "| all | 3 | our cost model | 10.0% | 10.0% | 1.000 |" in page
    assert "| all | 3 | our cost model, clock taken out | 0.0% | 0.0% | 1.000 |" in page
    assert "| all | 3 | roofline | 0.0% | 0.0% | 1.000 |" in page


@pytest.mark.parametrize("index", [0, 3])
def test_a_cell_names_one_configuration(index: int) -> None:
    first, second = (cost.Drawn("code", "resnet20", index).configuration for _ in range(2))
    assert first == second
    assert bool(first.widths) is bool(index)
    assert cost.Drawn("code", "resnet20", index).name == f"code-resnet20-{index:02d}"
    assert cost.Drawn("code", "resnet20", index, visit=2).key == f"code-resnet20-{index:02d}-2"
