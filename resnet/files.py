"""Helpers for paths that users give, for reading, replacing and importing files, for folders and pictures."""

import atexit
import contextlib
import fcntl
import itertools
import json
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from resnet.errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

USER_CACHE = "~/.cache/resnet"
"""What every run of a user may use again lies here: programs, kernels, lists of images."""
# "gs://bucket" is "gs:/bucket" once it was a Path; one letter may be a folder's name, or a drive's.
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def local_path(given: str | os.PathLike) -> Path:
    """The path that a user gave to a flag, a field or a function, with ~ and ~user expanded.

    InputError for what no local file system can have. A path that was returned is returned again.
    """
    text = os.fspath(given)
    if _URL.match(text):
        raise InputError(
            f"{text!r} is no local path: mount what it names, or copy it to this machine "
            "(a folder of that name is meant by its absolute path)"
        )
    if "\0" in text:
        raise InputError(f"{text!r} holds a NUL character, which no file system takes")
    if not text.startswith("~"):
        path = Path(text)
        # "./~" is "~" once it is a Path, and would be expanded by the next one who asks.
        return path.absolute() if str(path).startswith("~") else path
    try:
        return Path(text).expanduser()
    except RuntimeError:
        name = text.split("/")[0]
        raise InputError(f"{text!r}: {name} has no home folder; a file of that name is ./{name}") from None


def check_path(field: str, value: str) -> None:
    """Raises InputError unless `value` is empty or a local path."""
    try:
        local_path(value)
    except InputError as error:
        raise InputError(f"`{field}`: {error}") from None


def check_suffix(field: str, path: Path | None, suffix: str) -> None:
    """Raises InputError unless a file that is to be written, if one is, is named for what it will hold."""
    if path and path.suffix != suffix:
        raise InputError(f"{field}: the file to write must end in {suffix}; got {str(path)!r}")


@contextlib.contextmanager
def importing_beside(path: Path) -> Iterator[None]:
    """While entered, the Python files beside `path` can be imported by name, as if it were started itself.

    Files of the same names elsewhere are neither taken for them nor replaced by them afterwards.
    """
    folder = path.absolute().parent
    beside = {file.stem for file in folder.glob("*.py")} - sys.stdlib_module_names
    elsewhere = {name: sys.modules.pop(name) for name in beside & sys.modules.keys()}
    known = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        new = {name: name.partition(".")[0] for name in sys.modules.keys() - known}
        found_here = {top for top in {*new.values()} - known if _lies_in(folder, sys.modules.get(top))}
        for name in (name for name, top in new.items() if top in found_here):
            del sys.modules[name]
        sys.modules.update(elsewhere)


def _lies_in(folder: Path, module: object) -> bool:
    """Whether a module is a file in `folder`, or a folder in it."""
    places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
    return any(Path(place).parent == folder for place in places if place)


def save_png(figure: "Figure", path: Path, dpi: float | str = "figure") -> None:
    """Writes a picture whose texts are drawn letter by letter: names in them may look like formulas.

    What is not UTF-8 is marked. The labels of ticks stay as they are, for they are made while it is drawn. A
    reader finds the old picture or the new one.
    """
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_text(text.get_text().encode(errors="replace").decode().replace("$", r"\$"))
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=dpi)


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, would outlast a power cut.

    Not every file system can do this for folders; their errors are passed over.
    """
    try:
        opened = os.open(path, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
    except OSError:
        if not path.is_dir():
            raise


def lock(file: IO[bytes] | int, *, wait: bool = False) -> bool:
    """Locks an open file, or the descriptor of a folder, until it is closed; False if another process has.

    With `wait`, waits for that process. Does nothing on a file system without locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`. What the block makes there, a file or a folder, then takes its place.

    The content is on disk before it is renamed, and the name after: a power cut leaves the old file or the
    new one, and so does an error in the block. An OSError says `path` where it names no file, as that of a
    full disk does. A folder replaces nothing but an empty folder.
    """
    # Not the process's number: in containers that share a folder, each has the same.
    temporary = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        yield temporary
        for written in (*temporary.rglob("*"), temporary):
            sync(written)
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        if error.errno and error.filename is None:
            error.filename = str(path)
        raise
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a file of text as `replacing` does: a reader finds the old text or the new one."""
    with replacing(path) as temporary:
        temporary.write_text(text, "utf-8")


def free_name(path: Path) -> Path:
    """The path, or the first of <path>.1, <path>.2, … where nothing lies."""
    names = itertools.chain([path], (path.with_name(f"{path.name}.{n}") for n in itertools.count(1)))
    return next(name for name in names if not os.path.lexists(name))


@contextlib.contextmanager
def creating(path: str | Path) -> Iterator[Path]:
    """Does what `replacing` does for a path that a user chose. It makes the parent folders.

    Raises InputError if the path cannot be written; for a folder above it, before the block starts.
    """
    path = local_path(path)
    if not path.name:
        raise InputError(f"cannot write {path}, which has no name: name the file or folder to make")
    make_parents(path)
    try:
        with replacing(path) as temporary:
            yield temporary
    except OSError as error:
        raise _unwritable(path, error) from None


def check_writable(*paths: str | Path | None) -> None:
    """Raises InputError if a file cannot be written at one of the paths; makes their parent folders."""
    for path in map(local_path, filter(None, paths)):
        if path.is_dir():
            raise InputError(f"cannot write {path}: it is a folder")
        make_parents(path)


def make_parents(path: Path) -> None:
    """Makes the folders above a path; InputError if nothing can be written into them.

    A folder that it made and that is still empty is removed when the process ends.
    """
    parents = path.absolute().parents
    made = [folder for folder in parents if not folder.exists()]
    atexit.register(_remove_empty, made)
    try:
        parents[0].mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=parents[0]):
            pass
    except OSError as error:
        raise _unwritable(path, error) from None


def _remove_empty(folders: Sequence[Path]) -> None:
    """Removes folders, the innermost first, up to the first that holds something."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()


def _unwritable(path: Path, error: OSError) -> InputError:
    return InputError(f"cannot write {path} ({error.strerror or error})")


def read_object(path: str | Path, *needed: str, remedy: str = "delete it") -> dict[str, Any]:
    """Reads an object from a JSON file.

    Raises InputError, which names the file, unless it holds an object with the keys `needed`.
    """
    try:
        value = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is unreadable: {error}; {remedy}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} is unreadable: it holds no JSON object; {remedy}")
    missing = [name for name in needed if name not in value]
    if missing:
        raise InputError(f"{path} is unreadable: {missing[0]!r} is missing; {remedy}")
    return value


def make_folder(path: str | Path) -> Path:
    """The folder, created if it is missing; InputError if it cannot be created."""
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "a file lies there" if path.is_file() else error.strerror
        raise InputError(f"cannot make the folder {str(path)!r}: {reason}; choose another") from None
    return path
