import json

import pytest

from chipfit.stages import Stages, code, replace_folder, write_json


def write(text, calls):
    def make(folder):
        calls.append(text)
        write_json(folder / "result.json", text)

    return make


def test_finished_stage_is_not_made_again(tmp_path):
    calls, entered = [], []
    stages = Stages(tmp_path, lambda name, found: entered.append((name, found)))
    first = stages.run("search", {"x": 1}, write("a", calls))
    again = stages.run("search", {"x": 1}, write("b", calls))
    assert (first, calls, again.json()) == (again, ["a"], "a")
    assert entered == [("search", False), ("search", True)]


def test_other_inputs_are_another_stage(tmp_path):
    calls = []
    keys = {Stages(tmp_path).run("search", {"x": x}, write(str(x), calls)).key for x in (1, 2)}
    assert len(keys) == 2
    assert calls == ["1", "2"]


def test_what_grows_is_found_again_under_the_same_inputs(tmp_path):
    first, again, other = (Stages(tmp_path).growing("losses", {"x": x}) for x in (1, 1, 2))
    write_json(first / "result.json", {"a": 1.0})
    assert json.loads((again / "result.json").read_text()) == {"a": 1.0}
    assert not (other / "result.json").exists()


def test_what_other_code_found_is_made_again(tmp_path, monkeypatch):
    (tmp_path / "package_of_passes").mkdir()
    for name in ("__init__.py", "one_pass.py"):
        (tmp_path / "package_of_passes" / name).touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("chipfit.stages.PACKAGES", ("package_of_passes",))
    before = code.__wrapped__()
    assert code.__wrapped__() == before
    (tmp_path / "package_of_passes" / "one_pass.py").write_text("edited = True")
    assert code.__wrapped__() != before
    calls = []
    for found in (before, code.__wrapped__()):
        monkeypatch.setattr("chipfit.stages.code", lambda found=found: found)
        Stages(tmp_path / "work").run("search", {}, write(found, calls))
    assert len(calls) == 2


def test_stopped_stage_goes_on_from_what_it_wrote(tmp_path):
    def stops(folder):
        (folder / "checkpoint").write_text("half")
        raise KeyboardInterrupt

    def goes_on(folder):
        write_json(folder / "result.json", (folder / "checkpoint").read_text())

    with pytest.raises(KeyboardInterrupt):
        Stages(tmp_path).run("distill", {}, stops)
    assert Stages(tmp_path).run("distill", {}, goes_on).json() == "half"


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", object())
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert json.loads((tmp_path / "a.json").read_text()) == 1


def test_replace_folder(tmp_path):
    for name in ("new", "place"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    replace_folder(tmp_path / "new", tmp_path / "place")
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["place", "place/new"]
