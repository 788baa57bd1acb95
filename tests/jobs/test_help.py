"""What --help shows: commands in groups, options in panels, examples whose options exist."""

from __future__ import annotations

import json
import re
import shlex

import typer
from typer.core import TyperGroup

from jobs.cli import app
from pipeline.codecs.registry import codec_names
from tests.support.command_line import photoark


def test_help_groups_the_commands_and_shows_examples_that_exist() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    overview = photoark("--help", COLUMNS="120").stdout
    assert [title for title in re.findall(r"╭─ ([A-Z][\w ]+) ─", overview) if title != "Options"] == [
        "Store", "Restore", "Look after", "Codecs and training", "Operate",
    ]  # fmt: skip
    for name, command in group.commands.items():
        assert f"\n│ {name} " in overview
        examples = [line for line in (command.epilog or "").splitlines() if line.startswith("photoark")]
        assert examples or name == "bench"
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        for example in examples:
            assert example.split()[1] == name
            assert {word for word in shlex.split(example) if re.match(r"--?\w", word)} <= known, example
    encode = photoark("encode", "--help", COLUMNS="120").stdout
    assert re.findall(r"╭─ ([A-Z][\w ,]+) ─", encode) == [
        "Arguments", "Options", "Which files", "How to encode", "Machines and limits", "Settings, logs and output",
    ]  # fmt: skip


def test_version_and_codecs_are_listed() -> None:
    assert re.fullmatch(r"photoark \d+\.\d+\.\d+\n", photoark("--version").stdout)
    found = {line["name"]: line for line in map(json.loads, photoark("codecs", "--json").stdout.splitlines())}
    assert list(found) == codec_names()
    assert (found["ditic-small"]["qualities"], found["ditic-small"]["generative"]) == ([1, 4], True)
    assert (found["avif"]["qualities"], found["avif"]["usual_quality"], found["avif"]["weights"]) == ([1, 100], 60, "")
    assert found["original"]["qualities"] is None
    assert "avif" in photoark("codecs").stdout
