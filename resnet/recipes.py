"""Recipes and studies: files of configs/ by name, which a wheel carries, or any by path; found and run."""

import contextlib
import runpy
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from resnet.errors import InputError
from resnet.fields import closest
from resnet.files import importing_beside, local_path

T = TypeVar("T")

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


def call(given: str | Path, what: str, kind: type[T], **arguments: Any) -> tuple[T, Path]:
    """(the result of the function get_<what>(arguments) in a Python file, which is run; the file).

    `given` is a path, or a name in configs/. InputError unless there is a `kind` to be had.
    """
    function = f"get_{what}"
    path = find(given, what)
    with importing_beside(path), importable(path):
        try:
            module = runpy.run_path(str(path))
            if function not in module:
                signature = f"{function}({', '.join(arguments)}) -> {kind.__name__}"
                raise InputError(f"it has no function {signature}")
            result = module[function](**arguments)
        except Exception as error:
            raise _blaming(path, what, error) from None
    if not isinstance(result, kind):
        wanted = f"{kind.__module__}.{kind.__name__}"
        raise InputError(f"{function}() of {path} must return a {wanted}; got {result!r}")
    return result, path


def _blaming(path: Path, what: str, error: Exception) -> Exception:
    """What a file's code raised, as an InputError with the file and line; a bug of ours stays as it is."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(path)]
    where = f"{what} file {path}" + (f", line {lines[-1]}" if lines else "")
    if isinstance(error, SyntaxError | InputError):  # the first says its line itself
        return InputError(f"{where}: {error}")
    if frames[-1].filename == str(path) or not lines:
        return InputError(f"{where}: {type(error).__name__}: {error}")
    return error


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
