"""What configs and studies share: they take the fields that they declare, and refuse any other name."""

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from resnet.errors import InputError

# Fields under the names that they had before, which earlier config files and runs have.
FORMER = {
    "model.order": "model.activation_order",
    "model.inner": "model.branch_width",
    "model.squeeze": "model.se_ratio",
    "data.shift": "data.random_crop",
    "data.shift_fill": "data.random_crop_fill",
}
# By the names of other codebases.
ELSEWHERE = {"lr": "schedule.learning_rate", "epochs": "train.duration"}


def present_name(name: str) -> str:
    """The name that a dotted field has now, of that or an earlier one."""
    return FORMER.get(name, name)


class UnknownField(InputError, AttributeError):
    """A name that is no field; an AttributeError too, as `hasattr` and `copy` need it."""


class Declared:
    """Base of the dataclasses that users fill in: a keyword that is no field is refused."""

    # Out of the sight of type checkers, which know the fields better, and would believe any name here.
    if not TYPE_CHECKING:

        def __new__(cls, *values: Any, **fields: Any):
            for name in fields:
                cls._check_declared(name)
            return super().__new__(cls)

    @classmethod
    def _check_declared(cls, name: str) -> None:
        if name not in cls.__dataclass_fields__:  # type: ignore[attr-defined]
            raise cls._unknown(name)

    @classmethod
    def _unknown(cls, name: str) -> UnknownField:
        fields = list(cls.__dataclass_fields__)  # type: ignore[attr-defined]
        hint = closest(name, fields)
        return UnknownField(f"{cls.__name__} has no field `{name}`{hint}; its fields are {', '.join(fields)}")


class Fields(Declared):
    """Base of the config dataclasses. `section` is where the whole config has them, "" for itself."""

    _section: ClassVar[str] = ""

    def __init_subclass__(cls, section: str) -> None:
        cls._section = section

    if not TYPE_CHECKING:

        def __setattr__(self, name: str, value: Any) -> None:
            name = self._present(name)
            self._check_declared(name)
            super().__setattr__(name, value)

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):  # a protocol of Python's that we do not have
                raise AttributeError(name)
            if (present := self._present(name)) != name:
                return getattr(self, present)
            self._check_declared(name)
            raise UnknownField(f"`{_dotted(self._section, name)}` is missing")

    @classmethod
    def _present(cls, name: str) -> str:
        return present_name(_dotted(cls._section, name)).rpartition(".")[2]

    @classmethod
    def _unknown(cls, name: str) -> UnknownField:
        return unknown_field(_dotted(cls._section, name))


def unknown_field(name: str) -> UnknownField:
    """The error for a dotted name that is no field of a config; names similar fields."""
    known = {
        _dotted(kind._section, field.name)
        for kind in Fields.__subclasses__()
        for field in dataclasses.fields(kind)  # type: ignore[arg-type]
    }
    if "." in name:  # which stands for no whole section
        known -= {kind._section for kind in Fields.__subclasses__()}
    last = name.rpartition(".")[2]
    if name in FORMER:
        hint = f"; it is `{FORMER[name]}` now"
    elif last in ELSEWHERE:
        hint = f"; did you mean `{ELSEWHERE[last]}`?"
    else:
        hint = closest(name, known - {name})
    return UnknownField(f"unknown field `{name}`{hint}; --help lists all")


def closest(name: str, names: Iterable[str]) -> str:
    """A hint such as "; did you mean `model.depth`?", or nothing."""
    matches = difflib.get_close_matches(name, list(names), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(f'`{match}`' for match in matches)}?" if matches else ""


def check_types(filled_in: Any) -> None:
    """Raises InputError for the first field of a dataclass whose value is not of its type."""
    kinds = typing.get_type_hints(type(filled_in))
    for field in dataclasses.fields(filled_in):
        value, kind = getattr(filled_in, field.name), kinds[field.name]
        if not fits(value, kind):
            name = f"{type(filled_in).__name__}.{field.name}"
            hint = f"; write {tuple(value)!r}" if isinstance(value, list) and fits(tuple(value), kind) else ""
            raise InputError(f"`{name}` must be of type {type_name(kind)}; got {value!r}{hint}")


def fits(value: Any, kind: Any) -> bool:
    """Whether a value has the type of a field; an int may stand for a float."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return any(fits(value, arg) for arg in args)
    if origin is tuple or kind is tuple:
        if not isinstance(value, tuple):
            return False
        if len(args) == 2 and args[1] is Ellipsis:
            return all(fits(item, args[0]) for item in value)
        return not args or (len(value) == len(args) and all(map(fits, value, args)))
    if origin is Mapping:
        return isinstance(value, Mapping) and all(
            fits(k, args[0]) and fits(v, args[1]) for k, v in value.items()
        )
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return kind is Any or isinstance(value, kind)


def of_kind(value: Any, kind: Any) -> Any:
    """A whole number as the float that its field holds, at any depth: 1 and 1.0 are one value."""
    if isinstance(value, tuple):
        first, *others = typing.get_args(kind)
        kinds = [first] * len(value) if others == [...] else [first, *others]
        return tuple(map(of_kind, value, kinds))
    return float(value) if kind is float else value


def type_name(kind: Any) -> str:
    """A type as it is written in the source, such as tuple[str, ...]."""
    written = kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)
    return re.sub(r"[\w.]+\.(?=\w)", "", written)


def _dotted(section: str, name: str) -> str:
    return f"{section}.{name}" if section else name
