"""A published data set brought to where it is read from."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from absl import logging

from resnet.data.published.fetch import Archive, ShowProgress, check_archive, fetch, unpack
from resnet.data.published.sets import DEFAULT_DIR, PUBLISHED, find_published
from resnet.data.splits import Source
from resnet.errors import InputError, check_choice
from resnet.files import local_path, lock, replacing

LOCK = ".lock"  # of the folder of a data set, for which flock decides


def prepare_published(
    name: str, given_dir: str, given: Path | None, report: ShowProgress
) -> tuple[Path, Source]:
    """(folder of the data set, its images): fetched into `given_dir`/`name`, or taken from `given`.

    `given` is the archive, or a folder that holds the archives under their published names. What is there
    already, in `given_dir` or where it lies by default, is only read, and so is what another process puts
    there meanwhile. InputError for what cannot be fetched, or is not what was published.
    """
    check_choice("data set", name, PUBLISHED)
    if given is None:
        with contextlib.suppress(InputError):  # Another process may be writing; damage is told below.
            if there := _read(name, given_dir):
                return there
    folder = local_path(given_dir or DEFAULT_DIR).absolute() / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone_in(folder):
            try:
                there = _read(name, given_dir)
                if given is None and there:
                    return there
            except InputError as error:
                logging.warning("%s", error)
                if given_dir and (other := PUBLISHED[name].find(name, folder.parent)):
                    raise InputError(
                        f"--dir: damaged files of {name} in {other} would be read before those in {folder}: "
                        "remove them, or name another folder"
                    ) from None
            for archive in PUBLISHED[name].archives:
                _bring(archive, _taken(name, archive, given), folder, PUBLISHED[name].members(name), report)
    except OSError as error:
        raise InputError(f"--dir: {folder} cannot be written ({error.strerror})") from None
    found = PUBLISHED[name].find(name, folder)
    assert found is not None
    return found, PUBLISHED[name].load(name, found)


def _read(name: str, given_dir: str) -> tuple[Path, Source] | None:
    """(folder of the data set, its images) if it is there; InputError if it is damaged."""
    found = find_published(name, given_dir)
    return (found, PUBLISHED[name].load(name, found)) if found else None


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """While entered, no other process prepares the folder; one that does is waited for."""
    with (folder / LOCK).open("ab") as file:
        if not lock(file):
            logging.info("%s is being prepared by another process: waiting for it", folder)
            lock(file, wait=True)
        yield


def _bring(
    archive: Archive, taken: Path | None, folder: Path, members: tuple[str, ...], report: ShowProgress
) -> None:
    """Puts an archive, or the members of it that are wanted, into the folder of its data set."""
    path = taken or fetch(archive, folder, report)
    if members:
        unpack(path, members, folder)
        if not taken:
            path.unlink()  # what it holds is there twice
    elif not (folder / path.name).exists() or not path.samefile(folder / path.name):
        with replacing(folder / path.name) as temporary:
            shutil.copyfile(path, temporary)


def _taken(name: str, archive: Archive, given: Path | None) -> Path | None:
    """The archive among what the user gave, checked; None if it is to be fetched."""
    if given is None:
        return None
    count = len(PUBLISHED[name].archives)
    if given.is_file() and count > 1:
        raise InputError(f"--archive: {name} is published in {count} files; name the folder that holds them")
    path = given / archive.name if given.is_dir() else given
    if not path.is_file():
        raise InputError(f"--archive: there is no file {path}")
    check_archive(archive, path, "name another by --archive, or leave it out to fetch it")
    return path
