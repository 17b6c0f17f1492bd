"""Overrides of a config's fields, given as --config.section.field=value: finds, refuses and applies them."""

import re
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from absl import flags

from resnet.errors import InputError
from resnet.fields import present_name

if TYPE_CHECKING:
    from resnet.config import Config

_OVERRIDE = re.compile(r"--?(no)?config\.([^=]+)(=.*)?", re.DOTALL)


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """(the command's own arguments, the overrides of the config)."""
    overrides = [argument for argument in arguments if _OVERRIDE.fullmatch(argument)]
    return [argument for argument in arguments if argument not in overrides], overrides


def refuse_fields(overrides: Sequence[str], fields: Collection[str], reason: str) -> None:
    """Raises InputError for an override of one of these fields; `reason` says why it would have no effect."""
    for argument in overrides:
        match = _OVERRIDE.fullmatch(argument)
        if match and (name := present_name(match[2])) in fields:
            raise InputError(f"`{name}` would have no effect: {reason}; leave it out")


def override(config: "Config", overrides: list[str]) -> "Config":
    """A copy of `config` with the fields named in `overrides` set, checked as a whole."""
    from resnet.config import check_config, field_types
    from resnet.fields import unknown_field

    types = field_types()
    last: dict[str, str] = {}
    for argument in overrides:
        match = _OVERRIDE.fullmatch(argument)
        assert match is not None
        name, value = present_name(match[2]), match[3] or match[1]
        argument = argument.replace(match[2], name, 1)
        if name not in types:
            raise unknown_field(name)
        if value is None and types[name] != "bool":
            raise InputError(f"`{name}` needs a value: --config.{name}=…")
        last[name] = argument  # whole, as a tuple would otherwise be joined to the one given before
    for name, argument in last.items():
        config = _set(config, name, types[name], argument)
    check_config(config)
    return config


def _set(config: "Config", name: str, kind: str, argument: str) -> "Config":
    """Lets ml_collections parse the argument of one field, and set it in a copy."""
    from ml_collections import config_flags

    from resnet.config import replaced

    if kind.endswith(" | None") and argument.endswith("=None"):
        return replaced(config, {name: None})
    if kind.startswith("tuple") and argument.endswith("="):
        return replaced(config, {name: ()})
    if kind == "tuple[str, ...]":
        argument = _quoted(argument)
    argv = ["", argument]
    values = flags.FlagValues()
    try:
        config_flags.DEFINE_config_dataclass("config", config, flag_values=values, sys_argv=argv)
        values(argv)
    except (flags.Error, ValueError, TypeError, SyntaxError) as error:
        value = argument.partition("=")[2]
        raise InputError(f"`{name}` must be of type {kind}; got {value!r}") from error
    return values.config


def _quoted(argument: str) -> str:
    """ "--a=50 %,75 %" as "--a=('50 %', '75 %')"; what is quoted already stays."""
    name, _, value = argument.partition("=")
    if not value or value[0] in "(['\"":
        return argument
    return f"{name}={tuple(item.strip() for item in value.split(','))!r}"
