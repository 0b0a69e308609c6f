"""The command line's entry: runs one command; every error is one sentence, and its exit code says whose it is."""

from __future__ import annotations

import errno
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence

import click

from chipfit import commands
from chipfit.errors import UserError

OURS, BAD_INPUT, INTERRUPTED = 1, 2, 130
FULL = (errno.ENOSPC, errno.EDQUOT)
FULL_WORDS = "No space left on device"  # libraries that raise errors of their own still quote the system


def main() -> None:
    sys.exit(run(sys.argv[1:]))


def run(args: Sequence[str]) -> int:
    """The exit code: 0, 1 (a fault of ours), 2 (bad input), 3 (a budget that can't be met), 130 (interrupted)."""
    try:
        code = commands.chipfit.main(args=list(args), prog_name="chipfit", standalone_mode=False)
    except click.ClickException as error:
        return told(error.format_message(), BAD_INPUT)
    except (click.Abort, KeyboardInterrupt):
        return told("Interrupted; the same command goes on where it stopped.", INTERRUPTED)
    except Exception as error:
        return failed(error)
    return code if isinstance(code, int) else 0


def failed(error: Exception) -> int:
    if any(is_disk_full(cause) for cause in causes(error)):
        return told("The disk is full: free some space and give the same command again, it goes on.", BAD_INPUT)
    if isinstance(error, UserError):
        return told(str(error), error.exit_code)
    with tempfile.NamedTemporaryFile("w", prefix="chipfit-", suffix=".log", delete=False) as log:
        traceback.print_exception(error, file=log)
    return told(f"This is a fault of chipfit ({type(error).__name__}); please report it with {log.name}.", OURS)


def told(sentence: str, code: int) -> int:
    click.echo(f"Error: {sentence}", err=True)
    return code


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and those that it was raised from."""
    while error:
        yield error
        error = error.__cause__ or error.__context__


def is_disk_full(error: BaseException) -> bool:
    return (isinstance(error, OSError) and error.errno in FULL) or FULL_WORDS in str(error)
