"""The one error that speaks to the user: what they gave, and how to mend it."""

import re
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


def check_regex(field: str, value: str) -> None:
    """Raises InputError unless `value` is a regular expression."""
    try:
        re.compile(value)
    except re.error as error:
        raise InputError(f"`{field}`: {value!r} is no regular expression: {error}") from None
