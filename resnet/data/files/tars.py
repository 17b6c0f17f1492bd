"""The images in a tar as byte ranges of it, so that nothing is unpacked; and a tar that grows file by file.

ILSVRC2012_img_train.tar holds a tar for each class; since none of them is compressed, their images are byte
ranges of the outer file too.
"""

import collections
import contextlib
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from absl import logging

from resnet.data.files.listing import Entry
from resnet.errors import InputError, first_of
from resnet.files import lock

BLOCK = 512  # bytes; a tar ends with two of zeros
# The first bytes of compressed files, and what unpacks them.
COMPRESSED = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ": "xz -d",
    b"\x28\xb5\x2f\xfd": "zstd -d",
    b"PK\x03\x04": "unzip, and name the folder",
}

Groups = dict[str, dict[str, list[Entry]]]


def list_tar(path: Path, suffixes: tuple[str, ...], split_of: Any) -> Groups:
    """By split and class, the image files of a tar; both are "" where its paths do not tell them.

    `split_of` gives the split that a folder's name stands for, or None. Where no path has one, all is in "".
    InputError for what is no whole tar, or is compressed.
    """
    links: list[str] = []
    with path.open("rb") as file:
        _check_plain(path, file)
        groups, ignored = _grouped(path, _members(path, file, 0, links), suffixes, split_of)
    if links:
        logging.warning(
            "%s: ignoring %d links, e.g. %s; tar --dereference --hard-dereference stores what they lead to",
            path,
            len(links),
            links[0],
        )
    if ignored:
        kinds = ", ".join(suffixes)
        logging.warning("%s: ignoring %d files not in %s, e.g. %s", path, len(ignored), kinds, ignored[0])
    _say_what_is_there_twice(path, groups)
    if not groups:
        raise InputError(f"{path} holds no image ({', '.join(suffixes)})")
    if len(groups) > 1 and "" in groups:
        _check_classes_beside(path, groups)
        stray = next(entry.name for entries in groups.pop("").values() for entry in entries)
        logging.warning("%s: ignoring images outside the folders of splits, e.g. %s", path, stray)
    return groups


def _say_what_is_there_twice(path: Path, groups: Groups) -> None:
    """Warns of images with the same split, class and name, such as later versions that were appended."""
    entries = [each for classes in groups.values() for each in classes.values()]
    twice = [
        name
        for each in entries
        for name, count in collections.Counter(entry.name for entry in each).items()
        if count > 1
    ]
    if twice:
        logging.warning(
            "%s: %d names of images are there more than once in their class, and each counts: %s",
            path,
            len(twice),
            first_of(twice),
        )


def _check_classes_beside(path: Path, groups: Groups) -> None:
    """InputError where a folder named like a split lies beside class folders, and has none of its own."""
    lone = [split for split, classes in groups.items() if split and set(classes) == {""}]
    if lone and set(groups[""]) != {""}:
        raise InputError(
            f"{path}: the {lone[0]} folder lies beside class folders ({min(groups[''])}, …) and "
            "has none: put the classes into train/<class>/, or rename it if it is a class"
        )


def _grouped(
    path: Path, members: Iterator[Entry], suffixes: tuple[str, ...], split_of: Any
) -> tuple[Groups, list[str]]:
    """Images by split and class, with the names of other files."""
    groups: Groups = {}
    ignored = []
    for member in members:
        *folders, file = member.name.split("/")
        if any(part.startswith(".") for part in (*folders, file)):
            continue
        if not file.lower().endswith(suffixes):
            ignored.append(member.name)
            continue
        split = next((found for part in folders[-2:-1] if (found := split_of(part))), None)
        if split is None and any(split_of(part) for part in folders[:-2]):
            raise InputError(
                f"{path}: {member.name} lies in a folder below its class: put it into <split>/<class>/"
            )
        label = folders[-1] if folders else ""
        if split is None and label and split_of(label):  # images of a split, in no class
            split, label = split_of(label), ""
        short = f"{label}/{file}" if label else file
        entry = Entry(short, member.size, member.offset)
        groups.setdefault(split or "", {}).setdefault(label, []).append(entry)
    return groups, ignored


def _members(path: Path, file: Any, start: int, links: list[str], prefix: str = "") -> Iterator[Entry]:
    """The ordinary files of a tar, and of the tars in it; offsets count from the outer file's first byte.

    The names of links are added to `links`.
    """
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            while member := archive.next():
                archive.members = []  # type: ignore[attr-defined]  # else they would fill the memory
                if not member.isreg():
                    links += [member.name] if member.islnk() or member.issym() else []
                    continue
                name = prefix + "/".join(part for part in member.name.split("/") if part not in ("", "."))
                hidden = name.rpartition("/")[2].startswith(".")  # as ._n01440764.tar, which is no tar
                if name.endswith(".tar") and not prefix and not hidden:
                    inner = archive.extractfile(member)
                    assert inner is not None
                    yield from _members(
                        path, inner, start + member.offset_data, links, name.removesuffix(".tar") + "/"
                    )
                else:
                    yield Entry(name, member.size, start + member.offset_data)
            file.seek(archive.offset)
            if file.read(BLOCK) != bytes(BLOCK):
                raise tarfile.ReadError(f"no end of a tar at byte {start + archive.offset:,}")
    except tarfile.TarError as error:
        inside = f", in {prefix.rstrip('/')}.tar" if prefix else ""
        raise InputError(f"{path} is no whole tar ({error}{inside}): fetch it again") from None


def _check_plain(path: Path, file: Any) -> None:
    """Raises InputError if a file is compressed."""
    head = file.read(8)
    file.seek(0)
    for magic, command in COMPRESSED.items():
        if head.startswith(magic):
            raise InputError(
                f"{path} is compressed, so that no image in it can be read alone: unpack it first ({command})"
            )


class GrowingTar:
    """A tar to which files are added one by one; those of an interrupted process are kept."""

    def __init__(self, file: BinaryIO, made_of: str):
        self._file = file
        self._before = _cut_to_whole_members(file, made_of)  # sizes in bytes by name
        if not self._before:
            file.write(tarfile.TarInfo.create_pax_global_header({"comment": made_of}))

    def take(self, name: str) -> int | None:
        """The size in bytes of a file that was written before, given once; None if there is no more."""
        sizes = self._before.get(name)
        return sizes.pop() if sizes else None

    def add(self, name: str, content: bytes) -> None:
        """Writes one file."""
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(content), 0o644
        self._file.write(member.tobuf() + content + bytes(-len(content) % BLOCK))

    @property
    def goes_on(self) -> bool:
        """Whether an interrupted process has written files of it."""
        return bool(self._before)


@contextlib.contextmanager
def growing(target: Path, made_of: str) -> Iterator[GrowingTar]:
    """Opens a tar that becomes `target` when the block ends, and is `target`.part until then.

    An interruption leaves the part, and the next call goes on with it. Raises InputError if the part was
    begun from other files than `made_of` stands for, or if another process writes it. An InputError in the
    block removes the part.
    """
    part = target.with_name(f"{target.name}.part")
    with part.open("a+b") as file:
        if not lock(file):
            raise InputError(f"{part} is being written by another process: wait for it, or stop it")
        if target.exists():  # finished by another process since the caller looked
            part.unlink(missing_ok=True)
            raise InputError(f"--to: {target} exists already: remove it, or name another tar")
        tar = GrowingTar(file, made_of)
        try:
            yield tar
        except InputError:
            part.unlink()
            raise
        file.write(bytes(2 * BLOCK))
        file.flush()
        os.fsync(file.fileno())
        os.replace(part, target)


def _cut_to_whole_members(file: BinaryIO, made_of: str) -> dict[str, list[int]]:
    """Removes what follows the last whole file of an interrupted tar; returns its files' sizes by name.

    Raises InputError if the tar was not begun from what `made_of` stands for.
    """
    size, end = file.seek(0, os.SEEK_END), 0
    sizes: dict[str, list[int]] = {}
    file.seek(0)
    with contextlib.suppress(tarfile.TarError), tarfile.open(fileobj=file, mode="r:") as archive:
        if archive.pax_headers.get("comment") != made_of:
            raise InputError(
                f"{file.name} was begun from other images or with another size: repeat the command that "
                "began it, or remove it"
            )
        while (member := archive.next()) and _end_of(member) <= size:
            archive.members = []  # type: ignore[attr-defined]  # else they would fill the memory
            sizes.setdefault(member.name, []).append(member.size)
            end = _end_of(member)
    file.truncate(end)
    return sizes


def _end_of(member: tarfile.TarInfo) -> int:
    """The byte behind a file in a tar, which is filled up to whole blocks."""
    return member.offset_data + member.size + -member.size % BLOCK
