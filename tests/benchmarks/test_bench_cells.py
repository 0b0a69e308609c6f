"""Benchmarks in cells: what is there isn't run again, and a kill loses one cell at most."""

import json
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import cells
import pytest
from cells import Cells, Ran, chipfit, conditions, table, trim

BENCHMARKS = Path(cells.__file__).parent


@dataclass(frozen=True)
class Named:
    key: str


def answer(cell: Named) -> dict[str, object]:
    return {"key": cell.key, "exit_code": 0}


def test_a_cell_that_exists_is_not_run_again(tmp_path) -> None:
    ran = []

    def make(cell: Named) -> dict[str, object]:
        ran.append(cell.key)
        return answer(cell)

    kept = Cells(tmp_path / "new" / "cells.jsonl")
    kept.fill([Named("a")], make)
    kept.fill([Named("a"), Named("b")], make)
    assert ran == ["a", "b"]
    assert [one["key"] for one in kept.found()] == ["a", "b"]
    assert {"load", "began", "machine", "commit"} <= set(kept.found()[0])


def test_a_kill_loses_the_cell_that_is_running_and_no_other(tmp_path) -> None:
    def make(cell: Named) -> dict[str, object]:
        if cell.key == "b":
            raise KeyboardInterrupt
        return answer(cell)

    kept, wanted = Cells(tmp_path / "cells.jsonl"), [Named("a"), Named("b"), Named("c")]
    with pytest.raises(KeyboardInterrupt):
        kept.fill(wanted, make)
    assert kept.missing(wanted) == wanted[1:]
    kept.fill(wanted, answer)
    assert kept.missing(wanted) == []


def test_a_line_that_a_kill_cut_off_is_none(tmp_path) -> None:
    kept, wanted = Cells(tmp_path / "cells.jsonl"), [Named("a"), Named("b")]
    kept.fill(wanted, answer)
    kept.file.write_text(kept.file.read_text()[:-3])
    assert kept.missing(wanted) == wanted[1:]
    kept.fill(wanted, answer)
    assert [one["key"] for one in kept.found()] == ["a", "b"]


@pytest.mark.parametrize(("code", "tries"), [(0, 1), (3, 1), (1, 2), (2, 2)])
def test_what_is_no_answer_is_kept_but_tried_again(tmp_path, code: int, tries: int) -> None:
    ran = []

    def make(cell: Named) -> dict[str, object]:
        ran.append(cell.key)
        return {**answer(cell), "exit_code": code}

    kept = Cells(tmp_path / "cells.jsonl")
    for _ in range(2):
        kept.fill([Named("a")], make)
    assert (len(ran), kept.found()[0]["exit_code"]) == (tries, code)


def test_a_command_is_told_by_its_code_and_its_last_sentence(tmp_path) -> None:
    log = tmp_path / "logs" / "a.log"
    refused = chipfit(["report", str(tmp_path)], log)
    assert (refused.exit_code, refused.found) == (2, None)
    assert refused.sentence.startswith(f"Error: {tmp_path} is no artifact")
    assert log.read_text().strip() == refused.sentence
    assert set(refused.record()) == {"exit_code", "seconds", "sentence"}


def test_json_of_a_command_is_what_it_found(tmp_path) -> None:
    found = chipfit(["targets", "validate", str(chip(tmp_path))], tmp_path / "log")
    assert isinstance(found, Ran)
    assert found.found == {"file": str(tmp_path / "toy.toml"), "name": "toy", "ok": True}


def chip(folder: Path) -> Path:
    file = folder / "toy.toml"
    file.write_text('[figures]\ncores = { unit = "core", least = 1, most = 64, about = "cores" }\n')
    return file


def test_a_sigterm_ends_what_was_started() -> None:
    """What was started would keep stdout open for a minute."""
    code = f"""
import subprocess, sys
sys.path.insert(0, {str(BENCHMARKS)!r})
from cells import interruptible
interruptible(lambda: subprocess.run([sys.executable, "-c", "import time; print('on', flush=True); time.sleep(60)"]))
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "on\n"
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=20)
    assert "goes on where it stopped" in told
    assert process.returncode == 130


def test_only_the_graphs_of_passes_are_removed(tmp_path) -> None:
    for name, inputs in (("compensate-1", {"pass": "compensate"}), ("library-2", {"structure": ""})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "stage.json").write_text(json.dumps({"name": name, "inputs": inputs}))
    (tmp_path / "distill-3").mkdir()
    trim(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["distill-3", "library-2"]


def test_a_table_and_its_conditions() -> None:
    assert table(("a", "b"), [("1", "2")]) == "| a | b |\n| --- | ---: |\n| 1 | 2 |"
    state = {"machine": "toy", "load": 1.0, "commit": "abc"}
    records = [{**state, "began": "2026-11-22 10:00"}, {**state, "began": "2026-11-23 10:00", "load": 3.0}]
    assert conditions(records) == (
        "2 cells, 2026-11-22 to 2026-11-23, by abc; toy; load average before a cell 1.0 to 3.0, 2.0 in the median."
    )
    assert conditions([]) == "no cell was run yet."
