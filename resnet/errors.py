"""The one error that speaks to the user: what they gave, and how to mend it."""

import importlib.util
import re
import sys
from collections.abc import Iterable


class InputError(ValueError):
    """Something the user gave cannot work. The message names the field or file, its value and the remedy."""


def check_choice(field: str, value: object, choices: Iterable[str]) -> None:
    """Raises InputError unless `value` is one of `choices`; the message lists them."""
    choices = list(choices)
    if value not in choices:
        raise InputError(f"`{field}` must be one of {', '.join(choices)}; got {value!r}")


def check_at_least(field: str, value: float, least: float) -> None:
    """Raises InputError unless `value` >= `least`."""
    if not value >= least:
        raise InputError(f"`{field}` must be at least {least}; got {value!r}")


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
