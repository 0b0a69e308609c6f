"""llama.cpp's decoding step of SmolLM2, the same weights in its own formats, to stand beside ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import llama_cpp

FORMATS: Mapping[str, int] = {
    "Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
    "Q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
}


def requantized(source: Path, name: str, folder: Path) -> Path:
    """The GGUF with all its matrices in another format, the embedding too."""
    target = folder / f"{name}.gguf"
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype, settings.allow_requantize, settings.pure = FORMATS[name], True, True
    if llama_cpp.llama_model_quantize(str(source).encode(), str(target).encode(), settings):
        raise RuntimeError(f"llama.cpp could not write {target.name}.")
    return target


def decoding_step(file: Path, threads: int, filled: int) -> Callable[[], object]:
    """One token after `filled` others; what it adds to the cache is taken away again, which costs next to nothing."""
    model = llama_cpp.Llama(
        str(file), n_ctx=256, n_threads=threads, n_threads_batch=threads, logits_all=False, verbose=False
    )
    model.eval([1] * filled)

    def step() -> object:
        model.n_tokens = filled  # eval removes from the cache what lies behind
        model.eval([1])
        return model

    return step
