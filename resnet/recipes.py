"""Recipes and studies by name: the files of configs/, which a wheel carries inside the package."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from resnet.errors import InputError
from resnet.fields import closest
from resnet.files import local_path

_PACKAGE = Path(__file__).parent
# A wheel puts configs/ into share/; in a clone it lies beside the package.
HOME = _PACKAGE / "share" if (_PACKAGE / "share").is_dir() else _PACKAGE.parent
FOLDERS = {"config": "configs", "study": "configs/studies"}
"""Where the files of a kind lie, from HOME."""


def names(what: str) -> list[str]:
    """The names of all files of a kind, config or study, that are at hand."""
    return sorted(path.stem for path in (HOME / FOLDERS[what]).glob("*.py"))


def find(given: str | Path, what: str) -> Path:
    """The file that is meant by a path or by a name; InputError where there is neither."""
    path = local_path(given)
    if path.is_file():
        return path
    if str(path) in names(what):
        return HOME / FOLDERS[what] / f"{path}.py"
    raise InputError(
        f"{what} file {str(path)!r} does not exist; those at hand by name are "
        f"{', '.join(names(what))}{closest(path.stem, names(what))}"
    )


@contextlib.contextmanager
def importable(path: Path) -> Iterator[None]:
    """While entered, the file can import what it builds on: from configs.digits import get_config.

    A recipe of ours finds ours first; a file from elsewhere finds the `configs` of its own project first.
    """
    ours = path.absolute().is_relative_to(HOME)
    sys.path.insert(0 if ours else len(sys.path), str(HOME))
    try:
        yield
    finally:
        sys.path.remove(str(HOME))
