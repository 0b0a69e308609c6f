from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from chipfit.errors import UserError
from chipfit.frontend.data import Data, Metric, batched, batches, load_data

IDS = (torch.zeros(1, 4, dtype=torch.int64),)
PAIR = (torch.zeros(1, 3), torch.zeros(1, 2, 2))
LOADER = """
import torch
def good():
    return {"train": [(torch.ones(1, 4, dtype=torch.int64),)] * 3, "heldout": [(torch.zeros(2, 4, dtype=torch.int64),)]}
def narrow():
    return {"train": [(torch.ones(1, 3, dtype=torch.int64),)], "heldout": [(torch.ones(1, 4, dtype=torch.int64),)]}
def empty():
    return {"train": [], "heldout": [(torch.ones(1, 4, dtype=torch.int64),)]}
def doubled():
    return {"train": [(torch.ones(1, 4, dtype=torch.int64),) * 2], "heldout": [(torch.ones(1, 4),)]}
def unnamed():
    return [1, 2]
"""


@pytest.fixture
def loader(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(LOADER)
    return path


def test_a_loader_returns_both_splits(loader: Path) -> None:
    data = load_data(f"{loader}:good", IDS)
    assert (len(data.train), len(data.heldout), data.metric, data.synthetic) == (3, 1, None, False)


def test_nothing_is_fitted_to_or_picked_by_what_quality_is_judged_on() -> None:
    train, heldout = ([(torch.tensor([[float(row)]]),) for row in rows] for rows in (range(20), range(20, 24)))
    data = Data(train, heldout)
    assert [row[0].item() for row in data.training] == list(range(18))
    assert [row[0].item() for row in data.validation] == [18, 19]
    assert Data(train[:1], heldout).training == Data(train[:1], heldout).validation == train[:1]
    metric = Metric("score", "", True, lambda predict: 1.0)
    assert (Data(train, heldout, metric).training, Data(train, heldout, metric).validation) == (train, heldout)


def test_jsonl_holds_one_example_a_line(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    lines = [{"vector": [row, 1, 2], "square": [[row, 1], [2, 3]]} for row in range(20)]
    path.write_text("\n".join(map(json.dumps, lines)))
    data = load_data(f"jsonl:{path}", PAIR)
    assert [row[0][0, 0].item() for row in data.heldout] == [0, 10]
    assert len(data.train) == 18
    assert data.train[0][1].tolist() == [[[1, 1], [2, 3]]]
    assert data.train[0][0].dtype == torch.float32


def test_npz_holds_one_array_an_input(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    np.savez(path, first=np.arange(60.0).reshape(20, 3), second=np.zeros((20, 2, 2)))
    data = load_data(f"npz:{path}", PAIR)
    assert (len(data.train), len(data.heldout)) == (18, 2)
    assert data.heldout[1][0].tolist() == [[30, 31, 32]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("jsonl:nowhere.jsonl", "There is no data file nowhere.jsonl"),
        ("npz:nowhere.npz", "There is no data file nowhere.npz"),
        ("nowhere.py:data", "There is no file nowhere.py"),
        ("csv:data.csv", "Data must be given as jsonl:FILE, npz:FILE or FILE.py:loader"),
        ("{loader}:missing", "has no function missing"),
        ("{loader}:unnamed", "must return a mapping with `train` and `heldout`"),
        ("{loader}:empty", "has no examples to use as train"),
        ("{loader}:narrow", r"train example 0, input 0 is int64\[3\] per example, but the model takes int64\[4\]"),
        ("{loader}:doubled", r"train example 0 has 2 tensor\(s\), but the model takes 1"),
    ],
)
def test_data_that_does_not_fit_is_refused(text: str, message: str, loader: Path) -> None:
    with pytest.raises(UserError, match=message):
        load_data(text.format(loader=loader), IDS)


@pytest.mark.parametrize(
    ("line", "message"),
    [("[1, 2", "line 2"), ('{"a": [1, 2, 3, 4], "b": [1]}', "an object with 1 array"), ("[1, 2, 3, 4]", "line 2")],
)
def test_a_wrong_line_is_named(line: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"ids": [1, 2, 3, 4]}\n' + line + "\n")
    with pytest.raises(UserError, match=message):
        load_data(f"jsonl:{path}", IDS)


def test_lines_of_another_length_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('{"ids": [1, 2, 3, 4]}\n{"ids": [1, 2, 3]}\n')
    with pytest.raises(UserError, match=r"is int64\[3\] per example"):
        load_data(f"jsonl:{path}", IDS)


@pytest.mark.parametrize("content", [b"no zip at all", None])
def test_an_npz_of_other_things_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    if content is None:
        np.savez(path, first=np.zeros((20, 3)), second=np.zeros((19, 2, 2)))
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match="npz"):
        load_data(f"npz:{path}", PAIR)


def test_made_up_inputs_have_the_statistics_of_the_example() -> None:
    floats = torch.randn(1, 1000, generator=torch.Generator().manual_seed(0)) * 3 + 7
    integers = torch.tensor([[2, 5, 5, 5]])
    data = load_data(None, (floats, integers))
    made = torch.cat([row[0] for row in data.train])
    assert made.mean().item() == pytest.approx(7, abs=0.2)
    assert made.std().item() == pytest.approx(3, abs=0.2)
    assert set(torch.cat([row[1] for row in data.train]).unique().tolist()) == {2, 5}
    assert data.synthetic


def test_made_up_text_follows_the_teacher() -> None:
    """This one always says the next number, so every text counts upwards."""

    def teacher(ids: Tensor) -> Tensor:
        return 50 * torch.nn.functional.one_hot((ids + 1) % 10, 10).float()

    data = load_data(None, IDS, teacher)
    texts = torch.cat([row[0] for row in (*data.train, *data.heldout)])
    assert (texts.diff() % 10 == 1).all()
    assert len(texts.unique(dim=0)) > 5


def test_made_up_data_is_the_same_for_the_same_seed() -> None:
    one, other, third = (load_data(None, PAIR, seed=seed).train[0][0] for seed in (0, 0, 1))
    assert torch.equal(one, other)
    assert not torch.equal(one, third)


@pytest.mark.parametrize("rows", [1, 4, 7])
def test_a_function_of_a_fixed_batch_takes_any_number_of_examples(rows: int) -> None:
    def predict(left: Tensor, right: Tensor) -> Tensor:
        assert len(left) == len(right) == 4
        return left + right

    left, right = torch.arange(rows), torch.arange(rows) * 10
    assert batched(predict, 4)(left, right).tolist() == [11 * row for row in range(rows)]


def test_batches_keep_the_order_and_leave_the_rest_out() -> None:
    rows = [(torch.tensor([row]),) for row in range(7)]
    assert [batch[0].tolist() for batch in batches(rows, 3)] == [[0, 1, 2], [3, 4, 5]]
