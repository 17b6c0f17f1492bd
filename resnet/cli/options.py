"""What all commands share: arguments in, one JSON object out, user errors as one line and exit code 2.

A command is two functions: define() defines its flags with absl, and main(overrides) -> result makes one
call of the library. `run` does the rest. Overrides are the arguments `--config.section.field=value`.
"""

import contextlib
import dataclasses
import inspect
import re
import shlex
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags, logging

from resnet.cli import ending
from resnet.cli.overrides import override, split_overrides
from resnet.errors import InputError
from resnet.fields import closest
from resnet.files import local_path
from resnet.runtime.logs import log_to_stderr

if TYPE_CHECKING:
    from resnet.config import Config
    from resnet.studies.study import Study

PROGRAM = "resnet"
FLAGS = flags.FLAGS
flags.disclaim_key_flags()  # what is defined here for a command is listed as the command's

HELP = ("--help", "-help", "-h", "--helpfull")


def run(
    main: Callable[..., dict[str, Any] | None],
    define: Callable[[], None] = lambda: None,
    arguments: Sequence[str] | None = None,
) -> None:
    """Parses the arguments, by default argv's, calls `main` with the overrides, and prints its result.

    Ends the process for what is an error. A `main` with a second parameter also gets the arguments that are
    no options.
    """
    with ending.in_one_line(), flags_of(define):
        own, overrides = split_overrides(sys.argv[1:] if arguments is None else arguments)
        if any(argument in HELP for argument in own):
            print(_help(main, own, overrides))
            return
        rest = _parsed(main, own)
        takes_files = len(inspect.signature(main).parameters) > 1
        if rest and not takes_files:
            raise InputError(f"unexpected argument {rest[0]!r}; options are written --name=value")
        log_to_stderr(FLAGS.verbosity if FLAGS["verbosity"].present else logging.INFO)
        result = main(overrides, rest) if takes_files else main(overrides)
        if result is not None:
            print_result(result)


def print_result(result: dict[str, Any]) -> None:
    """Prints the result of a command."""
    # Imported here, because JAX comes with it, which a mistyped option should not cost.
    from resnet.runs.metrics.records import to_json

    print(to_json(result), flush=True)


def _parsed(main: Callable, own: Sequence[str]) -> list[str]:
    """Sets the flags of the command as its own arguments say; returns those that are no options."""
    try:
        rest = FLAGS(["", *own])[1:]
    except flags.UnrecognizedFlagError as error:
        known = [flag.name for flag in FLAGS.get_key_flags_for_module(sys.modules[main.__module__])]
        hint = closest(error.flagname, known)
        raise InputError(f"unknown option --{error.flagname}{hint}; --help lists the options") from None
    for name in FLAGS:
        if isinstance(FLAGS[name].parser, flags.ListParser) and FLAGS[name].present > 1:
            raise InputError(f"--{name} is given twice; give all its values at once, with commas between")
    return rest


@contextlib.contextmanager
def flags_of(define: Callable[[], None]) -> Iterator[None]:
    """The flags that `define` defines, while entered: another command may define them anew."""
    before = set(FLAGS)
    define()
    try:
        yield
    finally:
        for name in set(FLAGS) - before:
            delattr(FLAGS, name)


class _PathParser(flags.ArgumentParser):
    """Turns what was typed into a Path; nothing typed is None."""

    syntactic_help = "a path"

    def parse(self, argument: str) -> Path | None:
        return local_path(argument) if argument else None


class _PathsParser(flags.ListParser):
    """Paths with commas between."""

    def parse(self, argument: str | list) -> list[Path]:
        return [local_path(each) for each in super().parse(argument)]


def define_path(name: str, default: str | None, meaning: str) -> None:
    """Defines a flag whose value is a Path, or None; InputError for what is no local path."""
    flags.DEFINE(_PathParser(), name, default, meaning)


def define_paths(name: str, meaning: str) -> None:
    """Defines a flag whose value is a list of Paths."""
    flags.DEFINE(_PathsParser(), name, [], meaning)


def define_config() -> None:
    """Defines --config for commands that start from a recipe."""
    define_path(
        "config", None, "Recipe by name, e.g. digits, or file: Python code with a function get_config()."
    )


def require(*names: str) -> None:
    """Raises InputError if a flag is missing."""
    for name in names:
        if FLAGS[name].value in (None, ""):
            raise InputError(f"--{name}=… is missing; --help lists the options")


def refuse(way: str, *names: str, overrides: Sequence[str] = ()) -> None:
    """Raises InputError for a flag, or an override, that was given and has no meaning with `way`."""
    for name in names:
        value = FLAGS[name].value
        if value != FLAGS[name].default:
            given = ",".join(map(str, value)) if isinstance(value, list) else str(value)
            raise InputError(f"--{name} has no meaning with {way}; got {given!r}")
    if overrides:
        raise InputError(f"{overrides[0]} has no meaning with {way}, which reads no such field")


def command() -> str:
    """The command line, as it can be typed again."""
    program, *arguments = sys.argv
    start = [PROGRAM] if Path(program).name == PROGRAM else [Path(sys.executable).name, program]
    return shlex.join([*start, *arguments])


def chosen_config(overrides: list[str]) -> "Config":
    """The config of --config, overridden and checked."""
    from resnet import recipes
    from resnet.config import Config, differences, idle_fields

    require("config")
    recipe, _ = recipes.call(FLAGS.config, "config", Config)
    config = override(recipe, overrides)
    given = [name for name, _, _ in differences(recipe, config)]
    for name, purpose in idle_fields(config).items():  # a recipe may set fields for what others make of it
        level = logging.WARNING if name in given else logging.INFO
        logging.log(level, "`%s` has no effect: it is for %s", name, purpose)
    prepare_process(config)
    return config


def prepare_process(config: "Config") -> None:
    """Settings of this process, which belongs to the command and may be ended by a signal at once."""
    from resnet.runtime import machine, signals

    machine.prepare(config)
    signals.may_end_process()


def load_run_config(overrides: list[str], changeable: tuple[str, ...] = ()) -> "Config":
    """The config of the run in --workdir, overridden and checked.

    Only fields of the machine can change, and those whose names start with one of `changeable`. The run
    does not say where compiled programs are: they are code, and a run's folder may come from anybody.
    """
    from resnet.config import differences, load_saved_config
    from resnet.runs.changes import OF_THE_MACHINE
    from resnet.runtime.cache import CacheConfig

    require("workdir")
    saved = dataclasses.replace(load_saved_config(FLAGS.workdir), cache=CacheConfig())
    config = override(saved, overrides)
    changeable = (*changeable, *OF_THE_MACHINE)
    for name, _, _ in differences(saved, config):
        if not name.startswith(changeable):
            fields = ", ".join(f"`{prefix.rstrip('.')}`" for prefix in changeable)
            raise InputError(f"`{name}` belongs to the trained net; only {fields} can change")
    prepare_process(config)
    return config


def chosen_study(overrides: list[str]) -> "Study":
    """The study of --study, its base overridden, with the seeds of --study.seeds."""
    from resnet.studies.study import load_study, with_base

    scale, seeds = (getattr(FLAGS, f"study.{name}") for name in ("scale", "seeds"))
    study = load_study(FLAGS.study, scale)
    try:
        seeds = tuple(map(int, seeds)) if seeds else study.seeds
    except ValueError:
        raise InputError(f"--study.seeds must be whole numbers with commas between; got {seeds}") from None
    study = dataclasses.replace(with_base(study, override(study.base, overrides)), seeds=seeds)
    prepare_process(study.base)
    return study


def _help(main: Callable, own: list[str], overrides: list[str]) -> str:
    """Usage, the command's flags, and the fields of the config with type, value and meaning."""
    from resnet.config import Config, field_help, load_config

    module = sys.modules[main.__module__]
    lines = [(module.__doc__ or "").strip(), "", "options:"]
    for flag in FLAGS.get_key_flags_for_module(module):
        lines += [f"  --{flag.name}", *_wrap(flag.help)]
    # "--config=digits" and "--config digits" alike.
    given = re.search(r"(?:^|\0)--?config[=\0]([^\0]+)", "\0".join(own))
    config = override(load_config(given[1]) if given else Config(), overrides)
    lines += ["", f"fields of the config, with their values {f'in {given[1]}' if given else 'by default'}:"]
    for name, kind, value, meaning in field_help(config):
        lines += [f"  --config.{name}={value}  ({kind})", *_wrap(meaning)]
    return "\n".join(lines)


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, 96, initial_indent=" " * 6, subsequent_indent=" " * 6)
