"""The command `resnet`: the table of its commands, and which of them is meant."""

import ast
import importlib
import importlib.metadata
import sys
import textwrap
import types
from pathlib import Path

from resnet.cli import ending

ending.set_up()

from resnet import recipes
from resnet.cli.options import HELP, PROGRAM, run
from resnet.errors import InputError
from resnet.fields import closest

COMMANDS = {
    "prepare": "prepare",
    "train": "train",
    "evaluate": "evaluate",
    "predict": "predict",
    "watch": "watch",
    "study": "study",
    "report": "report",
    "analyze": "analyze",
    "describe": "describe",
    "plan": "plan",
    "export": "export",
    "import": "import_weights",
    "completion": "completion",
}
"""Each command, and its module in resnet/cli/commands/."""
FOLDER = Path(__file__).with_name("commands")


def main() -> None:
    """Runs the command that argv names; of none, tells what there is."""
    name, *arguments = sys.argv[1:] or HELP[:1]
    if name in HELP:
        print(overview())
    elif name == "--version":
        print(version())
    else:
        with ending.in_one_line():
            _check(name)
        command = load_command(name)
        run(command.main, command.define, arguments)


def _check(name: str) -> None:
    """Raises InputError for what is no command."""
    if name.startswith("-"):
        raise InputError(
            f"a command stands before {name}, e.g. {PROGRAM} train {name} …; {PROGRAM} lists them"
        )
    if name not in COMMANDS:
        raise InputError(f"unknown command {name!r}{closest(name, COMMANDS)}; {PROGRAM} lists all")


def load_command(name: str) -> types.ModuleType:
    """The module of a command: its flags are in `define`, what it does in `main`."""
    return importlib.import_module(f"resnet.cli.commands.{COMMANDS[name]}")


def version() -> str:
    """The version that is installed."""
    try:
        return importlib.metadata.version(PROGRAM)
    except importlib.metadata.PackageNotFoundError:
        return "a clone that is not installed"


def overview() -> str:
    """What each command does, and the recipes and studies at hand."""
    lines = ["What does the shortcut do? Residual nets trained, measured and compared.", ""]
    lines += [f"  {PROGRAM} {name:10}  {summary(name)}" for name in COMMANDS]
    lines += ["", f"{PROGRAM} COMMAND --help explains a command and its options."]
    for what, option in (("config", "--config"), ("study", "--study")):
        known = textwrap.wrap(", ".join(recipes.names(what)), 96)
        lines += ["", f"{option} takes a file, or one of these by name:", *(f"  {line}" for line in known)]
    return "\n".join(lines)


def summary(name: str) -> str:
    """What a command does, in the first words of its help; its module, and with it JAX, is not imported."""
    text = (FOLDER / f"{COMMANDS[name]}.py").read_text("utf-8")
    return (ast.get_docstring(ast.parse(text)) or "").split(":")[0]
