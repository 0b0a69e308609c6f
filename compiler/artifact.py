"""The artifact: a folder with the library, the weights and the record that proves what they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chipfit.errors import UserError
from chipfit.stages import sha256, write_json

MANIFEST = "manifest.json"
SCHEMA = 1


@dataclass(frozen=True)
class Artifact:
    """A finished compilation on disk."""

    folder: Path

    @property
    def manifest(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / MANIFEST).read_text()))

    @staticmethod
    def open(folder: Path) -> Artifact:
        """The artifact in `folder`; a UserError if there is none."""
        if not (folder / MANIFEST).is_file():
            raise UserError(f"{folder} is no artifact, it has no {MANIFEST}: name a folder that `compile` wrote.")
        return Artifact(folder)

    def verify(self) -> list[str]:
        """What is wrong with the files, one sentence each; empty if each is what the manifest says."""
        return [problem for file in self.manifest["files"] if (problem := self._problem(file))]

    def _problem(self, file: Mapping[str, Any]) -> str | None:
        path = self.folder / file["path"]
        if not path.is_file():
            return f"{file['path']} is missing."
        if path.stat().st_size != file["bytes"] or sha256(path) != file["sha256"]:
            return f"{file['path']} is not the file that was recorded: its bytes differ."
        return None


def write_manifest(folder: Path, record: Mapping[str, Any]) -> Artifact:
    """Completes an artifact's folder: the manifest lists every file in it with its size and SHA-256."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    files = [
        {"path": path.relative_to(folder).as_posix(), "bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in paths
    ]
    write_json(folder / MANIFEST, {"schema": SCHEMA, **record, "files": files})
    return Artifact(folder)
