"""The one error that speaks to the user: what they gave, and how to mend it."""

import importlib.util
import re
import sys
import traceback
from collections.abc import Iterable
from numbers import Integral
from pathlib import Path

# The pages that help, by the part of the package that refuses something; the first that fits is named.
PAGES = {
    "studies/launchers/cluster": "docs/clusters.md",
    "runtime/processes": "docs/clusters.md",
    "data": "docs/data.md",
    "weights": "docs/weights.md",
    "interop": "docs/weights.md",
    "training/finetune": "docs/weights.md",
    "analysis": "docs/questions.md",
    "studies": "docs/studies.md",
    "runs": "docs/reliability.md",
}


class InputError(ValueError):
    """Something the user gave cannot work. The message names the field or file, its value and the remedy."""


def page_of(error: BaseException) -> str:
    """The page on what an InputError was raised about; empty where none helps."""
    package, place = Path(__file__).parent, ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(package) and path.parent != package:  # the small modules serve all parts
            place = path.relative_to(package).with_suffix("").as_posix()
    return next((page for part, page in PAGES.items() if f"{place}/".startswith(f"{part}/")), "")


def first_of(names: Iterable[object], shown: int = 5) -> str:
    """The first few of many names, for a message, and how many there are besides."""
    names = [str(name) for name in names]
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + rest


def check_choice(field: str, value: object, choices: Iterable[str]) -> None:
    """Raises InputError unless `value` is one of `choices`; the message lists them."""
    choices = list(choices)
    if value not in choices:
        raise InputError(f"`{field}` must be one of {', '.join(choices)}; got {value!r}")


def check_at_least(field: str, value: float, least: float) -> None:
    """Raises InputError unless `value` >= `least`."""
    if not value >= least:
        raise InputError(f"`{field}` must be at least {least}; got {value!r}")


def check_whole(field: str, value: object, least: int) -> None:
    """Raises InputError if `value` is no whole number, or is below `least`."""
    if not isinstance(value, Integral):
        raise InputError(f"`{field}` must be a whole number; got {value!r}")
    check_at_least(field, int(value), least)


def check_within(field: str, value: float, least: float, most: float) -> None:
    """Raises InputError unless `value` lies between `least` and `most`; not a number lies nowhere."""
    if not least <= value <= most:
        raise InputError(f"`{field}` must be between {least:,} and {most:,}; got {value!r}")


def check_regex(field: str, value: str) -> None:
    """Raises InputError unless `value` is a regular expression."""
    try:
        re.compile(value)
    except re.error as error:
        raise InputError(f"`{field}`: {value!r} is no regular expression: {error}") from None


def check_installed(packages: Iterable[str], remedy: str) -> None:
    """Raises InputError for the first optional package that is not installed; `remedy` installs them."""
    for package in packages:
        if package not in sys.modules and importlib.util.find_spec(package) is None:
            raise InputError(f"{package}, which this needs, is not installed: {remedy}")
