"""A board at the other end of TVM's RPC: libraries are sent there, run there, and timed there."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from chipfit.codegen.arrays import Array
from chipfit.codegen.runtime import LIBRARY, read_record
from chipfit.cross.arguments import DATA, PLAN
from chipfit.cross.toolchain import remote_runner
from chipfit.errors import UserError

REMOTE = "runner.so"
SERVER = "python3 -m tvm.exec.rpc_server --host 0.0.0.0 --port {port}"  # what a board runs


@dataclass(frozen=True)
class Times:
    """Milliseconds: the least of a call, and of each of its kernels in the order in which they run."""

    call_ms: float
    kernels: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Board:
    """A session with a server. `folder` is where it keeps what is sent, until the session ends."""

    session: Any
    folder: str
    run: Any  # the runner: (what its files' names start with, seconds) -> its report

    def __call__(self, library: Path, arrays: Sequence[Array], seconds: float) -> tuple[tuple[Array, ...], Times]:
        """The outputs of the library in a folder, and what a call took at least in so many seconds.

        The folder holds the library's arguments too, as `write_arguments` writes them. Raises UserError if the session
        breaks.
        """
        start = f"{library.parent.name}."
        sent = {start + name: (library / name).read_bytes() for name in (LIBRARY, PLAN, DATA)}
        sent |= {f"{start}in{index}.npy": npy(array) for index, array in enumerate(arrays)}
        made = [f"{start}out{index}.npy" for index in range(len(read_record(library)["outputs"]))]
        with telling("ended the session"):
            for name, content in sent.items():
                self.session.upload(bytearray(content), name)
            report = self.run(f"{self.folder}/{start}", seconds)
            outputs = tuple(np.load(io.BytesIO(bytes(self.session.download(name)))) for name in made)
            for name in (*sent, *made):
                self.session.remove(name)
        return outputs, read_times(report)


@contextmanager
def connected(address: str, triple: str) -> Iterator[Board]:
    """The board whose server listens at `HOST:PORT`, a machine of that triple. Raises UserError if there is none."""
    from tvm import rpc

    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"{address!r} is no address of a server; give HOST:PORT, as raspberrypi.local:9090.")
    runner = remote_runner(triple)
    with telling(f"can't be reached; start it: {SERVER.format(port=port)}"):
        session = rpc.connect(host, int(port))
    with ending(session):
        with telling("ended the session"):
            session.upload(bytearray(runner), REMOTE)
            folder = session.get_function("tvm.rpc.server.workpath")("")
            board = Board(session, folder.rstrip("/"), session.load_module(REMOTE)["run"])
        yield board


@contextmanager
def ending(session: Any) -> Iterator[None]:
    """A server serves one session at a time, and TVM ends one when its last object is gone.

    A traceback may hold one for long, and the next connection would wait for its end forever.
    """
    close = session.get_function("CloseRPCConnection")
    try:
        yield
    finally:
        with suppress(RuntimeError, OSError):  # it may have broken before
            close()


@contextmanager
def telling(what: str) -> Iterator[None]:
    """What breaks meanwhile is the board's, or the way to it: TVM raises RuntimeError for its own and for sockets."""
    try:
        yield
    except (RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"The board's RPC server {what} ({reason}).") from error


def npy(array: Array) -> bytes:
    """The content of an .npy file."""
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(array))
    return file.getvalue()


def read_times(report: str) -> Times:
    """What the runner prints: `best_ms MS ...`, then `kernel NAME MS` for each kernel."""
    first, *rest = (line.split() for line in report.splitlines())
    return Times(float(first[1]), tuple((name, float(ms)) for _, name, ms in rest))
