"""Types for the options of a question, which give the bounds of their values, and the check of these.

A field is annotated as one of the types below. `__post_init__ = check_options` in the dataclass checks the
values as soon as flags are read.
"""

import dataclasses
import typing
from typing import Annotated, Any

from resnet.errors import InputError, check_within


@dataclasses.dataclass(frozen=True)
class Within:
    """Bounds of a number, both included."""

    least: float
    most: float


class Some:
    """Of a tuple: at least one value."""


Count = Annotated[int, Within(1, 10_000)]
Counts = tuple[Count, ...]
SomeCounts = Annotated[Counts, Some]
Seed = Annotated[int, Within(0, 2**31 - 1)]
StepNumber = Annotated[int, Within(0, 2**31 - 1)]


def check_options(options: Any) -> None:
    """InputError for the first field of a question's Options that lies outside its bounds."""
    for name, hint in typing.get_type_hints(type(options), include_extras=True).items():
        value = getattr(options, name)
        if Some in getattr(hint, "__metadata__", ()) and not value:
            raise InputError(f"`--{name}` needs at least one value, with commas between several")
        plain = hint.__origin__ if hasattr(hint, "__metadata__") else hint
        several = typing.get_origin(plain) is tuple
        item = typing.get_args(plain)[0] if several else hint
        for bounds in getattr(item, "__metadata__", ()):
            for each in value if several else (value,):
                if isinstance(bounds, Within):
                    check_within(f"--{name}", each, bounds.least, bounds.most)
