"""What all scripts share: the command line of this clone's package, whether that is installed or not."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from resnet.cli import ending

ending.set_up()

from resnet.cli.options import (
    FLAGS,
    InputError,
    command,
    define_path,
    prepare_process,
    require,
    run,
)

__all__ = [
    "FLAGS",
    "InputError",
    "command",
    "define_path",
    "prepare_process",
    "refuse_overrides",
    "require",
    "run",
]


def refuse_overrides(overrides: list[str], reason: str) -> None:
    """Raises InputError if overrides of a config were given; `reason` says why the script takes none."""
    if overrides:
        raise InputError(f"{overrides[0]} does not apply: {reason}")
