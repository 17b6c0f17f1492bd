"""Puts a question to a net: resnet analyze --question=signal --workdir=runs/digits

The net is that of a run, or of a config at its start: --config=digits, whose fields can be
overridden. Writes NAME.json, NAME.md and NAME.png; prints the tables, and one JSON object whose "answer"
holds the first ten rows of the first. --question=NAME --help lists the options of a question.
"""

import re
import sys
import typing
from pathlib import Path
from typing import Any

from absl import flags

from resnet.analysis.answer import headline, markdown, write
from resnet.analysis.questions import QUESTIONS
from resnet.cli import options as cli
from resnet.cli.overrides import refuse_fields
from resnet.config import meanings
from resnet.errors import InputError, check_choice
from resnet.files import check_writable

DEFINE = {
    int: flags.DEFINE_integer,
    float: flags.DEFINE_float,
    str: flags.DEFINE_string,
    bool: flags.DEFINE_bool,
    tuple: flags.DEFINE_list,
}


def define() -> None:
    """Defines the flags of the command."""
    flags.DEFINE_string("question", None, f"One of {', '.join(QUESTIONS)}.")
    cli.define_path("workdir", None, "Folder of a run.")
    flags.DEFINE_integer("step", None, "Checkpoint of the run; by default the latest.")
    flags.DEFINE_string(
        "data", None, "train, validation, test or noise; by default test for a run, else noise."
    )
    flags.DEFINE_integer("images", 128, "How many images, each class with its share.")
    flags.DEFINE_integer("images_seed", 0, "Seed that draws the images of the split, or the noise.")
    cli.define_path("output", None, "Folder to write into; by default WORKDIR/analysis or runs/analysis.")
    cli.define_config()
    _define_options()


def main(overrides: list[str]) -> dict:
    """Gets the net, asks, and writes the answer."""
    cli.require("question")
    check_choice("--question", cli.FLAGS.question, QUESTIONS)
    question = QUESTIONS[cli.FLAGS.question]
    options = question.Options(**{name: _value(name, kind) for name, kind in _fields(question.Options)})
    subject = _subject(overrides)
    folder = cli.FLAGS.output or (cli.FLAGS.workdir or Path("runs")) / "analysis"
    check_writable(folder / f"{cli.FLAGS.question}.json")
    answer = question.ask(subject, options)
    paths = write(cli.FLAGS.question, question, subject, options, answer, folder, cli.command())
    print(f"{subject.sample}\n\n{markdown(answer)}")
    return {
        "question": cli.FLAGS.question,
        "answer": headline(answer),
        "sample": str(subject.sample),
        "files": [str(path) for path in paths],
    }


def _subject(overrides: list[str]) -> Any:
    """The net of --workdir or --config."""
    from resnet.analysis.subject import NOISE, of_config, of_run
    from resnet.config import load_saved_config

    given = cli.FLAGS
    if (given.workdir is None) == (given.config is None):
        raise InputError("give either --workdir=… (a run) or --config=… (a net at its start)")
    if given.config:
        if given.step is not None:
            raise InputError("--step is for a run; --config=… is a net before its first step")
        reason = f"--question={given.question} sets it in the nets that it asks"
        refuse_fields(overrides, QUESTIONS[given.question].sets, reason)
        config, data = cli.chosen_config(overrides), given.data or NOISE
        return of_config(str(given.config), config, data, given.images, given.images_seed)
    now = cli.load_run_config(overrides, changeable=("data.dir",)).data.dir
    moved = {load_saved_config(given.workdir).data.dir: now}
    return of_run(given.workdir, given.data or "test", given.images, given.step, given.images_seed, moved)


def _define_options() -> None:
    """Defines the options of the question that is asked, if there is one."""
    given = [re.fullmatch("--?question(?:=(.*))?", argument) for argument in sys.argv]
    # absl takes --question=NAME and --question NAME.
    asked = [
        match[1] if match[1] is not None else after
        for match, after in zip(given, [*sys.argv[1:], ""], strict=True)
        if match
    ]
    for name in [name for name in asked if name in QUESTIONS][-1:]:
        described = meanings(QUESTIONS[name].Options)
        defaults = QUESTIONS[name].Options()
        for field, kind in _fields(QUESTIONS[name].Options):
            value = getattr(defaults, field)
            define = DEFINE[typing.get_origin(kind) or kind]
            define(field, list(value) if isinstance(value, tuple) else value, described.get(field, ""))


def _fields(kind: type) -> list[tuple[str, Any]]:
    """(name, type) of the options."""
    return list(typing.get_type_hints(kind).items())


def _value(name: str, kind: Any) -> Any:
    """The value of a flag, in the type of the option."""
    value: Any = cli.FLAGS[name].value
    if typing.get_origin(kind) is not tuple:
        return value
    item = typing.get_args(kind)[0]
    try:
        return tuple(item(part) for part in value)
    except ValueError:
        raise InputError(
            f"--{name} must be of type {item.__name__}, with commas between; got {value}"
        ) from None
