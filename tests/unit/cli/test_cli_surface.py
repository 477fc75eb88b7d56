"""The command line is frozen: commands and options change only together with surface.json."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import typer.main

from mistudio_cli.__main__ import build

SNAPSHOT = Path(__file__).with_name("surface.json")


def surface() -> dict[str, list[str]]:
    """Every command with its parameters: `--name` (all spellings), `<argument>`, `*` where required."""

    def walk(command: Any, path: str) -> None:
        inner = getattr(command, "commands", None)
        if inner is None:
            found[path] = sorted(shown(p) for p in command.params)
            return
        for name, child in inner.items():
            walk(child, f"{path} {name}")

    def shown(parameter: Any) -> str:
        names = [*parameter.opts, *parameter.secondary_opts]
        text = "/".join(names) if names[0].startswith("-") else f"<{parameter.name}>"
        return text + ("*" if parameter.required else "")

    found: dict[str, list[str]] = {}
    walk(typer.main.get_command(build()), "mistudio")
    return dict(sorted(found.items()))


def test_commands_and_options_are_what_was_promised():
    if os.environ.get("MISTUDIO_UPDATE_SNAPSHOTS"):
        SNAPSHOT.write_text(json.dumps(surface(), indent=2) + "\n")
    assert surface() == json.loads(SNAPSHOT.read_text())


def test_every_command_speaks_json_and_takes_a_home():
    for command, options in surface().items():
        assert "--json" in options, command
        assert "--home" in options, command


def test_no_option_takes_a_secret_as_its_value():
    secrets = [(c, o) for c, options in surface().items() for o in options if "token" in o and "file" not in o]
    allowed = {"--token-budget", "--sae-batch-tokens", "--max-code-tokens", "--context-tokens", "--splice-tokens"}
    allowed |= {"--max-tokens"}
    assert {o for _, o in secrets} <= allowed
