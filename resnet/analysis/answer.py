"""The common form of answers: tables in Markdown, a picture, and a JSON file that says where it is from."""

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from resnet.analysis.subject import Subject
from resnet.config import config_to_dict
from resnet.files import make_folder, save_png, write_text
from resnet.runs.metrics.records import json_values, write_json
from resnet.runs.provenance import origin_lines, this_session
from resnet.runs.tables import markdown_table

TableRow = dict[str, Any]


@runtime_checkable
class Answer(Protocol):
    """A dataclass of what was measured, numbers and arrays: its fields are what the JSON file holds."""

    def tables(self) -> dict[str, list[TableRow]]:
        """Rows by title."""
        ...

    def plot(self) -> Any:
        """A matplotlib Figure: labelled axes with units; colours of analysis/pictures.py."""
        ...


@dataclasses.dataclass(frozen=True)
class Question:
    """`ask(subject, options)` gives the answer. `Options`: a dataclass, each field with its meaning below it.

    The docstring of the module in which `ask` lies is the definition, and its "Source:" line the source.
    """

    ask: Callable[[Subject, Any], Answer]
    Options: type
    sets: tuple[str, ...] = ()
    """Fields of a config that it sets itself in the nets that it makes of it."""

    @property
    def definition(self) -> str:
        return self._docstring().partition("Source: ")[0].strip()

    @property
    def source(self) -> str:
        return " ".join(self._docstring().partition("Source: ")[2].split())

    def _docstring(self) -> str:
        return sys.modules[self.ask.__module__].__doc__ or ""


def markdown(answer: Answer) -> str:
    """The tables, each under its title."""
    return "\n\n".join(
        f"{title}\n\n" + markdown_table(rows, floatfmt=".4g") for title, rows in answer.tables().items()
    )


def write(name: str, question: Question, subject: Subject, options: Any, answer: Answer, folder: Path,
          command: str) -> list[Path]:  # fmt: skip
    """Writes NAME.json, NAME.md and NAME.png into `folder`; their paths."""
    make_folder(folder)
    paths = [folder / f"{name}.{kind}" for kind in ("json", "md", "png")]
    origin = this_session(command)
    about = {
        "question": name,
        "definition": question.definition,
        "source": question.source,
        "subject": {
            "name": subject.name,
            "step": subject.step,
            "data": subject.data,
            "images": len(subject.images),
            "sample": dataclasses.asdict(subject.sample),
            "config": config_to_dict(subject.config),
        },
        "options": dataclasses.asdict(options),
    }
    assert dataclasses.is_dataclass(answer) and not isinstance(answer, type)
    write_json(paths[0], about | origin | {"answer": dataclasses.asdict(answer)})
    heading = (
        f"# {name}: {subject.name}, {subject.when}\n\n{question.definition}\n\nSource: {question.source}\n\n"
        f"{subject.sample}.\n\n" + "\n".join(origin_lines([origin]))
        + f"\n\n![{name}]({name}.png)"
    )  # fmt: skip
    write_text(paths[1], f"{heading}\n\n{markdown(answer)}\n")
    save_png(answer.plot(), paths[2])
    return paths


def headline(answer: Answer) -> Any:
    """The first rows of the first table, as JSON has them: what a script prints last."""
    rows = next(iter(answer.tables().values()))
    return json.loads(json.dumps(json_values(rows[:10]), allow_nan=False, default=str))
