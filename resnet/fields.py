"""What all configs share: they take the fields that they declare, and refuse any other name."""

import dataclasses
import difflib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from resnet.errors import InputError


class UnknownField(InputError, AttributeError):
    """A name that is no field; an AttributeError too, as `hasattr` and `copy` need it."""


class Fields:
    """Base of the config dataclasses. `section` is where the whole config has them, "" for itself."""

    _section: ClassVar[str] = ""

    def __init_subclass__(cls, section: str) -> None:
        cls._section = section

    # Out of the sight of type checkers, which know the fields better, and would believe any name here.
    if not TYPE_CHECKING:

        def __new__(cls, *values: Any, **fields: Any):
            for name in fields:
                cls._check_declared(name)
            return super().__new__(cls)

        def __setattr__(self, name: str, value: Any) -> None:
            self._check_declared(name)
            super().__setattr__(name, value)

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):  # a protocol of Python's that we do not have
                raise AttributeError(name)
            self._check_declared(name)
            raise UnknownField(f"`{_dotted(self._section, name)}` is missing")

    @classmethod
    def _check_declared(cls, name: str) -> None:
        if name not in cls.__dataclass_fields__:  # type: ignore[attr-defined]
            raise unknown_field(_dotted(cls._section, name))


def unknown_field(name: str) -> UnknownField:
    """The error for a dotted name that no config has, with those that resemble it."""
    known = {
        _dotted(kind._section, field.name)
        for kind in Fields.__subclasses__()
        for field in dataclasses.fields(kind)  # type: ignore[arg-type]
    }
    return UnknownField(f"unknown field `{name}`{closest(name, known - {name})}; --help lists all")


def closest(name: str, names: Iterable[str]) -> str:
    """A hint such as "; did you mean `model.depth`?", or nothing."""
    matches = difflib.get_close_matches(name, list(names), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(f'`{match}`' for match in matches)}?" if matches else ""


def _dotted(section: str, name: str) -> str:
    return f"{section}.{name}" if section else name
