"""What the documents show exists: every command parses, every link leads somewhere, every make target is there."""

import re
import shlex
from pathlib import Path

import click
import pytest

from chipfit import cli, commands

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def shown(word):
    """(document, command) of every line of a code block that begins with the word."""
    for document in DOCUMENTS:
        for block in BLOCK.findall(document.read_text()):
            for line in block.splitlines():
                text = line.removeprefix("$ ").split("  #")[0].strip()
                if text.startswith(f"{word} "):
                    yield pytest.param(text, id=f"{document.name}: {text}")


@pytest.mark.parametrize("text", list(shown("chipfit")))
def test_command_parses(text):
    command, args = commands.chipfit, shlex.split(text)[1:]
    while isinstance(command, click.Group):
        name, command, args = command.resolve_command(click.Context(command), args)
    command.make_context(name, list(args), resilient_parsing=False)


@pytest.mark.parametrize("text", list(shown("make")))
def test_make_target_exists(text):
    target = text.split()[1]
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    for link in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        assert link.startswith("http") or (document.parent / link).exists(), link


def test_the_chips_that_are_shown_are_targets(tmp_path, monkeypatch, capsys):
    """Every chip file of the page, saved under its name, and every command that the page shows of them."""
    page = (ROOT / "docs/targets.md").read_text()
    chips = re.findall(r'^```toml\n(name = "(.*?)".*?)^```', page, re.MULTILINE | re.DOTALL)
    commands_ = re.findall(r"^    chipfit (.*acme.*)$", page, re.MULTILINE)
    assert (len(chips), len(commands_)) == (2, 4)
    monkeypatch.chdir(tmp_path)
    for text, name in chips:
        Path(f"{name}.toml").write_text(text)
    for command in commands_:
        assert cli.run(shlex.split(command)) == 0, capsys.readouterr().err
    assert "acme-desktop.toml is a valid cpu chip, acme-desktop." in capsys.readouterr().out


def test_the_api_that_the_readme_names():
    import chipfit

    assert callable(chipfit.compile)
    with pytest.raises(AttributeError):
        _ = chipfit.nothing
