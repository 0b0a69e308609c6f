"""The rooms import each other only in the directions that docs/architecture.md sets."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALLOWED = {
    "compiler/ir": {"ir"},
    "compiler/frontend": {"ir", "frontend", "errors", "examples"},
    "compiler/codegen": {"ir", "targets", "codegen", "errors"},
    "compiler/calibration": {
        "ir",
        "targets",
        "frontend",
        "passes",
        "codegen",
        "cross",
        "calibration",
        "errors",
        "measure",
    },
    "compiler/cross": {"ir", "targets", "codegen", "cross", "errors"},
    "compiler/search": {"ir", "passes", "targets", "search", "errors", "stages"},
    "passes": {"ir", "passes", "errors"},
    "targets": {"ir", "targets", "errors"},
}


def chipfit_imports(source: str) -> Iterator[str]:
    """The rooms that a module imports: `ir` for both `chipfit.ir.graph` and `from chipfit import ir`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("chipfit."))
        if isinstance(node, ast.ImportFrom) and node.module == "chipfit":
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("chipfit."):
            yield str(node.module).split(".")[1]


def all_modules() -> list[Path]:
    return [path for folder in ("compiler", "passes", "targets", "examples") for path in (ROOT / folder).rglob("*.py")]


@pytest.mark.parametrize("room", ALLOWED)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    wrong = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (ROOT / room).rglob("*.py")
        for name in chipfit_imports(path.read_text())
        if name not in ALLOWED[room]
    }
    assert not wrong


def test_the_checker_sees_all_forms_of_import() -> None:
    source = (
        "import chipfit.search.solve\nfrom chipfit import cli\ndef f():\n    from chipfit.codegen.runtime import x\n"
    )
    assert set(chipfit_imports(source)) == {"search", "cli", "codegen"}


def test_imports_are_absolute() -> None:
    for path in all_modules():
        relative = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom) and n.level]
        assert not relative, f"{path} imports relatively"


def test_modules_are_imported_as_chipfit() -> None:
    for path in all_modules():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            tops = {name.split(".")[0] for name in names}
            assert not tops & {"compiler", "passes", "targets", "examples"}, f"{path} makes a second copy"
