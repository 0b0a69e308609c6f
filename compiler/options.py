"""What several commands take or print."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

FOLDER = click.Path(path_type=Path)
HOST = "host"


def json_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")(command)


def target_option(command: Callable[..., Any]) -> Callable[..., Any]:
    help_ = "A chip of `chipfit targets list`, or a chip's TOML file."
    return click.option("--target", default=HOST, show_default=True, help=help_)(command)


def tune_option(command: Callable[..., Any]) -> Callable[..., Any]:
    tune = click.option("--tune", is_flag=True, help="Time some tiles of every kernel; takes minutes, once.")
    trials = click.option(
        "--tune-stock", "trials", default=0, metavar="TRIALS", help="Let TVM search for what it lowers."
    )
    return tune(trials(command))


def data_option(command: Callable[..., Any]) -> Callable[..., Any]:
    about = "jsonl:FILE, npz:FILE or FILE.py:FUNCTION; else the source's."
    return click.option("--data", metavar="DATA", help=about)(command)


def passes_option(command: Callable[..., Any]) -> Callable[..., Any]:
    about = "What may be used, as prune-axes,compensate,distill{seconds=200}."
    return click.option("--passes", metavar="SPEC", help=about)(command)


def print_json(data: Any) -> None:
    click.echo(json.dumps(data, indent=1))
