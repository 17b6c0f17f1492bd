"""What answers keep between calls, such as loss surfaces: found again by everything that decides it."""

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

from resnet.analysis.subject import Subject
from resnet.config import config_to_dict
from resnet.runs.provenance import digest

_LIBRARY = Path(__file__).parents[1]
# The code that every answer depends on, beside its own module.
_SHARED = ("models", "kernels", "training/losses.py", "analysis/subject.py", "analysis/settled.py")


def key(subject: Subject, question: str, **choices: Any) -> str:
    """The name, in hex digits, of the file where `question` keeps its answer.

    Two keys are equal only if config, variables, images, labels, choices and the code of the answer
    (`code_version`) are equal. `choices` are values of JSON.
    """
    decisive = {
        "question": question,
        "code": code_version(question),
        "model": config_to_dict(subject.config)["model"],
        "choices": choices,
        "arrays": digest((subject.variables, subject.images, subject.labels)),
    }
    return hashlib.sha256(json.dumps(decisive, sort_keys=True, allow_nan=False).encode()).hexdigest()


@functools.cache
def code_version(question: str) -> str:
    """A digest of the source that an answer depends on: the question's module, nets, kernels and losses."""
    source = hashlib.sha256()
    for place in (f"analysis/{question}.py", *_SHARED):
        path = _LIBRARY / place
        files = [file for file in path.rglob("*") if file.suffix in (".py", ".cc", ".h")]
        for file in sorted(files) or [path]:
            source.update(f"\n{file.relative_to(_LIBRARY).as_posix()}\n".encode() + file.read_bytes())
    return source.hexdigest()
