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
from resnet.cli.overrides import refuse_overrides

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
