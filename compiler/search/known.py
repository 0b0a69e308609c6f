"""Losses of whole configurations, each measured once: a search that was stopped has those that it measured already."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from chipfit.stages import write_json


@dataclass(frozen=True)
class Known:
    """Losses by what they are of, in a file where there is one, which is written after each."""

    file: Path | None = None

    def of(self, key: str, measure: Callable[[], float]) -> float:
        if key not in self._losses:
            self._losses[key] = measure()
            if self.file:
                write_json(self.file, self._losses)
        return self._losses[key]

    @cached_property
    def _losses(self) -> dict[str, float]:
        return dict(json.loads(self.file.read_text())) if self.file and self.file.exists() else {}
