"""SOURCE: where a model comes from, as one text."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

import chipfit.examples
from chipfit.errors import UserError
from chipfit.frontend.data import Data, as_data
from chipfit.frontend.function import function, load_module

FORMS = "FILE.py:FUNCTION, hf:DIR, gguf:FILE, pt2:FILE, or a built-in's name"


@dataclass(frozen=True)
class Source:
    """A model with example inputs (batch first), its own data if it brings any, and the hashes of its files."""

    name: str
    model: nn.Module
    example_inputs: tuple[Tensor, ...]
    data: Callable[[], Data] | None = None
    lineage: Mapping[str, Any] = field(default_factory=dict)


def load_source(text: str, weights: bool = True) -> Source:
    """The model that SOURCE names; without `weights` its shapes are enough and no weights file need be read.

    Raises UserError for whatever the user can have got wrong, in one sentence.
    """
    scheme, _, rest = text.partition(":")
    if scheme in READERS:
        return READERS[scheme](text, _existing(rest), weights)
    file, _, name = text.rpartition(":")
    if file.endswith(".py") or text.endswith(".py"):
        return _from_python(text, file or text, name if file else "", weights)
    return _built_in(text, weights)


def built_in_names() -> list[str]:
    """The examples that have a `model` function."""
    folder = Path(chipfit.examples.__path__[0])
    modules = [module.name for module in pkgutil.iter_modules(chipfit.examples.__path__)]
    return [name for name in modules if "\ndef model(" in (folder / f"{name}.py").read_text(encoding="utf-8")]


def _existing(name: str) -> Path:
    path = Path(name).expanduser()
    if not name or not path.exists():
        raise UserError(f"There is no file or folder {name or '(none was named)'}: check the path.")
    return path


def _built_in(name: str, weights: bool) -> Source:
    known = built_in_names()
    if name not in known:
        raise UserError(f"There is no model {name!r}: give {FORMS} ({', '.join(known)}).")
    module = importlib.import_module(f"chipfit.examples.{name}")
    return _made(name, name, module, function(module, "model", str(module.__file__)), weights)


def _from_python(text: str, file: str, name: str, weights: bool) -> Source:
    module = load_module(file)
    return _made(text, Path(file).stem, module, function(module, name, file), weights)


def _made(text: str, name: str, module: Any, factory: Callable[..., Any], weights: bool) -> Source:
    """What a factory returns; a function `data` in the same file is the model's own data."""
    takes_weights = "weights" in inspect.signature(factory).parameters
    result = factory(weights=weights) if takes_weights else factory()
    model, inputs = _checked(text, result)
    loader = function(module, "data", module.__file__) if callable(getattr(module, "data", None)) else None
    data = (lambda: as_data(loader(), inputs, f"{module.__file__}:data")) if loader else None
    return Source(name, model, inputs, data, lineage(text, Path(module.__file__)))


def _checked(text: str, result: Any) -> tuple[nn.Module, tuple[Tensor, ...]]:
    wrong = UserError(f"{text} must return a torch module and a tuple of example tensors, batch first.")
    if not isinstance(result, tuple) or len(result) != 2:
        raise wrong
    model, inputs = result
    inputs = (inputs,) if isinstance(inputs, Tensor) else inputs
    if not isinstance(model, nn.Module) or not isinstance(inputs, tuple | list) or not inputs:
        raise wrong
    if not all(isinstance(tensor, Tensor) for tensor in inputs):
        raise wrong
    return model, tuple(inputs)


def _from_hf(text: str, path: Path, weights: bool) -> Source:
    from chipfit.frontend import huggingface  # transformers takes seconds to import

    model, inputs = huggingface.from_folder(path, weights)
    files = [path / "config.json", *(sorted(path.glob("*.safetensors")) if weights else ())]
    return Source(path.resolve().name, model, inputs, lineage=lineage(text, *files))


def _from_gguf(text: str, path: Path, weights: bool) -> Source:
    from chipfit.frontend import huggingface

    model, inputs = huggingface.from_gguf(path, weights)
    return Source(path.stem, model, inputs, lineage=lineage(text, path))


def _from_pt2(text: str, path: Path, weights: bool) -> Source:
    from chipfit.frontend.exported import from_pt2

    model, inputs = from_pt2(path)
    return Source(path.stem, model, inputs, lineage=lineage(text, path))


READERS: Mapping[str, Callable[[str, Path, bool], Source]] = {
    "hf": _from_hf,
    "gguf": _from_gguf,
    "pt2": _from_pt2,
}


def lineage(text: str, *files: Path) -> dict[str, Any]:
    """The SOURCE as given, and the name and SHA-256 of each file that was read."""
    return {"source": text, "files": [{"name": file.name, "sha256": _sha256(file)} for file in files]}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
