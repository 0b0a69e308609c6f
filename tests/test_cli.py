"""The command line: what it prints, and one sentence with the right exit code for each mistake."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from chipfit import api, cli, report
from chipfit.artifact import Artifact, write_manifest
from chipfit.errors import InfeasibleBudgetError
from chipfit.progress import shown
from chipfit.targets.registry import target_names

QUALITY = {"metric": "accuracy", "unit": "", "value": 0.9, "retention": 0.97, "parts": {"easy": 0.95, "hard": 0.85}}
COSTS = {"latency_ms": 2.0, "peak_memory_bytes": 3_000_000, "weight_bytes": 1_000_000, "energy_mj": None}
RECORD = {
    "source": "resnet20",
    "target": {"name": "host", "status": "calibrated", "processor": "A chip", "threads": 2},
    "budget": {"limits": ["latency=50%"], "keep": None},
    "baseline": {**COSTS, "quality": QUALITY},
    "before_recovery": {"quality": QUALITY},
    "predicted": COSTS,
    "result": {**COSTS, "latency_ms": 0.987, "quality": QUALITY},
    "certificate": {"met": True, "binding": "latency", "limits": {"latency": {"used": 0.98, "by": "measured"}}},
    "configuration": {"widths": {"a:0": [0]}, "dropped": ["b"], "rounded": ["c", "d"]},
    "passes": [{"pass": "prune-axes", "modified": True, "seconds": 1.0}],
    "stock": [{"function": "take", "share": 0.02}],
    "lineage": {"made": "2026-11-22T10:00:00+00:00", "chipfit": "0.1.0", "tvm": "0.27", "torch": "2.13"},
}


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    folder = tmp_path / "artifact"
    folder.mkdir()
    (folder / "weights").write_bytes(b"123")
    write_manifest(folder, RECORD)
    return folder


def told(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = cli.run(args)
    printed = capsys.readouterr()
    return code, printed.out, printed.err


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("compile", "Missing argument 'SOURCE'."),
        ("compile nothing --budget latency=50%", "There is no model 'nothing'"),
        ("compile none.py:f --budget latency=50%", "There is no file none.py: check the path."),
        ("compile resnet20", "No budget is given: say for example --budget latency=50%."),
        ("compile resnet20 --budget latency=fast", "The budget 'latency=fast' can't be read"),
        ("compile resnet20 --budget latency=-5%", "The budget 'latency=-5%' must be above zero."),
        ("compile resnet20 --budget latency=50% --keep much", "'much' is no share of quality"),
        ("compile resnet20 --budget latency=50% --passes shrink", "There is no pass named shrink"),
        (
            "compile resnet20 --budget latency=50% --strategy luck",
            "There is no strategy luck; the strategies are",
        ),
        ("compile resnet20 --budget latency=50% --passes distill --strategy sleb", "name that in --passes too."),
        ("search none.py:f", "There is no file none.py: check the path."),
        ("compile resnet20 --budget latency=50% --target moon", "Target 'moon' is unknown"),
        ("compile resnet20 --budget latency=50% --data npz:none.npz", "There is no data file none.npz"),
        ("compile resnet20 --frsh", "No such option '--frsh'"),
        ("explain none.py:f", "There is no file none.py: check the path."),
        ("explain resnet20 --target cortx-a76", "did you mean cortex-a76"),
        ("report .", "is no artifact"),
        ("verify .", "is no artifact"),
        ("run .", "is no artifact"),
        ("targets show moon", "Target 'moon' is unknown"),
        ("targets validate none.toml", "File 'none.toml' does not exist."),
        ("explain resnet20 --target ./none.toml", "There is no file none.toml: check the path."),
        ("passes show shrink", "There is no pass named shrink"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(command: str, sentence: str, tmp_path: Path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = told(capsys, *command.split())
    errors = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert (code, out) == (2, "")
    assert sentence in errors[0]
    assert err.rstrip().splitlines()[-1] == errors[0], "the sentence comes last and is one line"
    assert not (tmp_path / "build/artifact").exists()


def test_an_infeasible_budget_is_exit_code_3(capsys, monkeypatch) -> None:
    def infeasible(*args: object, **kwargs: object) -> None:
        raise InfeasibleBudgetError("latency=1% can't be met.")

    monkeypatch.setattr(api, "compile_source", infeasible)
    assert told(capsys, "compile", "x", "--budget", "latency=1%") == (3, "", "Error: latency=1% can't be met.\n")


def test_a_seed_reaches_the_compilation(artifact: Path, capsys, monkeypatch) -> None:
    given = {}
    monkeypatch.setattr(api, "compile_source", lambda *args, **kwargs: given.update(kwargs) or Artifact(artifact))
    assert told(capsys, "compile", "x", "--budget", "latency=50%", "--seed", "7")[0] == 0
    assert given["seed"] == 7


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_full_disk_is_one_sentence(wrapped: bool, capsys, monkeypatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if not wrapped:
            raise error
        raise RuntimeError("could not link") from error

    monkeypatch.setattr(api, "compile_source", full)
    code, _, err = told(capsys, "compile", "x", "--budget", "latency=1%")
    assert code == 2
    assert err.startswith("Error: The disk is full: free some space")


def test_a_fault_of_ours_leaves_its_traceback_in_a_file(capsys, monkeypatch) -> None:
    def broken(*args: object, **kwargs: object) -> None:
        raise KeyError("lost")

    monkeypatch.setattr(api, "compile_source", broken)
    code, _, err = told(capsys, "compile", "x", "--budget", "latency=1%")
    assert code == 1
    assert err.startswith("Error: This is a fault of chipfit (KeyError)")
    log = Path(err.split("please report it with ")[1].strip().rstrip("."))
    assert "KeyError: 'lost'" in log.read_text()
    log.unlink()


def test_report_prints_costs_quality_and_the_verdict(artifact: Path, capsys) -> None:
    code, out, _ = told(capsys, "report", str(artifact))
    assert code == 0
    costs, quality = ("baseline", "predicted", "measured", "0.987 ms"), ("97.0%", "hard", "0.85")
    for part in (
        "latency=50%",
        *costs,
        *quality,
        "weights kept in few bits: 2",
        "Made for A chip (2 threads) on 2026-11-22",
        "The budget is met",
    ):
        assert part in out


def test_report_as_json_is_the_manifest(artifact: Path, capsys) -> None:
    _, out, _ = told(capsys, "report", str(artifact), "--json")
    assert json.loads(out)["result"]["latency_ms"] == 0.987


def test_verify_tells_a_changed_file(artifact: Path, capsys) -> None:
    assert told(capsys, "verify", str(artifact))[0] == 0
    (artifact / "weights").write_bytes(b"124")
    code, out, err = told(capsys, "verify", str(artifact), "--json")
    assert code == 2
    assert json.loads(out)["ok"] is False
    assert "weights is not the file that was recorded" in err


def test_explain_as_json_has_the_documented_fields(capsys) -> None:
    code, out, _ = told(capsys, "explain", "resnet20", "--target", "cortex-a76", "--json")
    found = json.loads(out)
    names = "source target parameters flops nodes axes blocks frozen opaque cost layers tokens"
    assert code == 0
    assert list(found) == names.split()
    assert found["parameters"] == 272_186
    assert set(found["axes"][0]) == {"name", "kind", "size", "step", "members"}
    assert set(found["blocks"][0]) == {"name", "kind", "parameters"}
    assert set(found["frozen"][0]) == {"dimension", "op", "reason"}
    assert set(found["layers"][0]) == {"name", "latency_ms", "share", "limit"}
    costs = {"latency_ms", "interval_ms", "peak_memory_bytes", "weight_bytes", "energy_mj", "energy_status", "status"}
    assert set(found["cost"]) == costs
    assert sum(layer["share"] for layer in found["layers"]) <= 1 + 1e-9


def test_explain_on_all_chips_says_what_limits_it_where(capsys) -> None:
    code, out, _ = told(capsys, "explain", "resnet20", "--target", "all", "--json")
    found = json.loads(out)
    chips = {chip["target"]: chip for chip in found["targets"]}
    assert code == 0
    assert set(chips) == set(target_names())
    for name, chip in chips.items():
        assert sum(chip["limits"].values()) == pytest.approx(1, abs=0.05)
        assert chip["cost"]["latency_ms"] > 0
        assert chip["cost"]["energy_status"] == "uncalibrated"
        if name != "host":
            assert (chip["cost"]["status"], chip["cost"]["interval_ms"]) == ("uncalibrated", None)
    assert all(set().union(*layer["limits"].values()) == set(chips) for layer in found["layers"])
    _, text, _ = told(capsys, "explain", "resnet20", "--target", "all")
    for part in ("On every chip", "uncalibrated", "What limits the slowest layers", "launch"):
        assert part in text


def test_a_report_has_the_table_over_all_chips(artifact: Path, capsys) -> None:
    cost = {**COSTS, "energy_mj": 1.5, "interval_ms": None, "status": "uncalibrated"}
    line = {"target": "h100-sxm", "cost": cost, "fits": False, "memory_bytes": 2_000_000, "energy_process": False}
    line |= {"limits": {"dram": 0.9, "launch": 0.01}, "tokens": {"tokens_per_second": 123.4}}
    chips = {"targets": [line], "layers": [{"name": "head", "limits": {"dram": ["h100-sxm"]}}]}
    write_manifest(artifact, {**RECORD, "chips": chips})
    _, out, _ = told(capsys, "report", str(artifact), "--json")
    assert json.loads(out)["chips"] == chips
    cells = " ".join(cell for table in report.chip_tables(chips) for row in table.rows for cell in row)
    for part in ("h100-sxm", "uncalibrated", "3 MB, more than its 2 MB", "1.5 mJ at 45 nm", "dram 90%", "123"):
        assert part in cells
    assert "launch" not in cells, "too small a part to name"
    assert report.chip_tables(None) == [], "older records have none"


def test_lists_as_json(capsys) -> None:
    passes = json.loads(told(capsys, "passes", "list", "--json")[1])
    assert {"fold-batch-norm", "prune-axes", "drop-blocks", "compensate", "distill"} <= {row["name"] for row in passes}
    targets = json.loads(told(capsys, "targets", "list", "--json")[1])
    assert targets[0]["name"] == "host"
    assert all(set(row) == {"name", "family", "status"} for row in targets)


def test_the_list_of_targets_says_what_each_is(capsys) -> None:
    code, out, _ = told(capsys, "targets", "list")
    assert code == 0
    assert "Biren BR100, 64 GB" in out
    assert "The costs of a chip that isn't are uncalibrated" in " ".join(out.split())


def test_a_chip_on_a_base_shows_all_its_figures(capsys) -> None:
    found = json.loads(told(capsys, "targets", "show", "raspberry-pi-5", "--json")[1])
    assert {"l3_size", "vector_bits", "memory_bandwidth"} <= set(found["figures"])
    assert found["arch"] == "cortex-a76"
    out = told(capsys, "targets", "show", "raspberry-pi-5")[1]
    assert "LLVM compiles for it as aarch64-linux-gnu, cortex-a76." in out
    assert "Arm Cortex-A76" in out


def test_families_are_validated_too(capsys, tmp_path: Path) -> None:
    family = tmp_path / "toy.toml"
    figure = '{ unit = "core", least = 1, most = 64, about = "cores" }'
    family.write_text(f"[figures]\ncores = {figure}\n")
    assert told(capsys, "targets", "validate", str(family))[1] == f"{family} is a valid family, toy.\n"
    family.write_text("[figures]\ncores = 4\n")
    code, _, err = told(capsys, "targets", "validate", str(family))
    assert code == 2
    assert f"{family}:2: cores is a bare value; write {{ unit, least, most, about }}." in err


def test_help_imports_neither_torch_nor_tvm() -> None:
    code = (
        "import sys; from chipfit import cli; cli.run(['--help']); print({'torch', 'tvm', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_what_is_printed_meanwhile_goes_to_stderr(capsys) -> None:
    """NVIDIA's FastNAS prints its search; the JSON after it must stay JSON."""
    with shown():
        print("searching")
    print("{}")
    assert capsys.readouterr() == ("{}\n", "searching\n")
