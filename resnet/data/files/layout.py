"""Where the splits of the user's images lie: in folders, in a tar for each, or in one tar."""

import dataclasses
import os
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from resnet.data.files.imagenet import Unlabelled, by_label, label_list
from resnet.data.files.index import kept_listings
from resnet.data.files.listing import Entry, Listing, make_listing, state_of_file
from resnet.data.files.tars import list_tar
from resnet.data.splits import instead_of, splits_for
from resnet.errors import InputError, first_of

SUFFIXES = (".jpg", ".jpeg", ".png")  # in any case
LAYOUT = (
    "train/<class>/*.jpg and test/<class>/*.jpg (.jpeg, .png), or <class>/*.jpg, or train.tar and test.tar"
)
# What the folders of the splits are called, in any case.
NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}
# ImageNet's tars, as they are published.
IMAGENET = {"ilsvrc2012_img_train": "train", "ilsvrc2012_img_val": "validation"}


def find_listings(root: Path, only: str = "", alone: bool = False) -> dict[str, Listing]:
    """The images of each split under `root`, a folder or a tar; with `only`, no others than are needed.

    Those of training are needed for the validation split where it is held out from them, unless it is to be
    there `alone`; where there are validation images, nothing is held out of training, so they are listed with
    it. InputError for what is missing, and for splits whose classes differ.
    """
    if root.is_file():
        found = _list_tar(root, "train")
        listings = {split: found[split] for split in NAMES if split in found}
        places = dict.fromkeys(listings, root)
    else:
        places, listings = _find_splits(root), {}  # each place is listed when it is needed
    read = (only,) if alone else splits_for(only, places)
    needed = read[0]
    if needed not in places:
        instead = f", or {instead_of(only)}" if only and not alone else ""
        odd = _no_places(root, [needed])
        why = f", and {first_of(odd)} is no plain tar: unpack it" if odd else ""
        why = why or ("" if places else _other_files(root))
        raise InputError(f"there is no folder {root / needed}{why}; `data.dir` must hold {LAYOUT}{instead}")
    if not only and "test" not in places:
        logging.warning("%s has no test images: results will be those of the validation split", root)
    wanted = {split: place for split, place in places.items() if split in read}
    for split, place in wanted.items():
        try:
            listings[split] = listings.get(split) or list_place(place, split)
        except Unlabelled as error:
            if split != "test" or split == needed:
                raise
            _say_unlabelled(error)
    listings = {split: listings[split] for split in wanted if split in listings}
    classes = listings[needed].classes
    if len(classes) < 2:
        raise InputError(f"{wanted[needed]} must hold at least two class folders: {LAYOUT}")
    for split, listing in listings.items():
        _check_classes(wanted[split], split, set(listing.classes), set(classes))
    return listings


def split_named(name: str) -> str | None:
    """The split that a folder or the stem of a tar stands for."""
    name = name.lower()
    return IMAGENET.get(name) or next((split for split, names in NAMES.items() if name in names), None)


def _find_splits(root: Path) -> dict[str, Path]:
    """The folder or tar of each split; names in the log what is no split, or may be one."""
    if not root.is_dir():
        raise InputError(f"`data.dir`: there is no folder or tar {root}; it must hold {LAYOUT}")
    found = places_of_splits(root)
    named = {split: place for split, place in found.items() if place != root}
    others = [path for path in sorted(_visible(root)) if path not in named.values()]
    _say_what_is_not_read("tars", [path for path in others if _is_tar(path)])
    odd = _no_places(root, [split for split in NAMES if split not in named])
    _say_what_is_not_read("files named like a split, but no plain tars,", odd)
    if found and not named:
        logging.info("no folder of %s is named like a split: all its images are for training", root)
    else:
        _say_what_is_not_read("folders", [path for path in others if path.is_dir()])
    return found


def places_of_splits(root: Path) -> dict[str, Path]:
    """The folder or tar of each split in a folder; InputError where two may be one split's.

    If none is named like a split and some folders hold images, these are classes of training images.
    """
    inside = sorted(_visible(root))
    folders = [path for path in inside if path.is_dir()]
    found: dict[str, Path] = {}
    for place in (*folders, *filter(_is_tar, inside)):
        split = split_named(place.name if place in folders else place.stem)
        if split in found:
            raise InputError(f"{found[split]} and {place} may both hold the {split} images: keep one of them")
        if split:
            found[split] = place
    if not found and any(map(_holds_images, folders)):
        return {"train": root}
    return {split: found[split] for split in NAMES if split in found}


def _is_tar(path: Path) -> bool:
    return path.suffix.lower() == ".tar" and path.is_file()


def _no_places(root: Path, splits: Sequence[str]) -> list[Path]:
    """Files in a folder that are named like one of the splits, but are no tars, such as test.tar.gz."""
    inside = sorted(_visible(root)) if root.is_dir() else []
    named = [path for path in inside if split_named(path.name.split(".")[0]) in splits]
    return [path for path in named if not path.is_dir() and not _is_tar(path)]


def _other_files(root: Path) -> str:
    """Names a file in a folder that might be one of a class, if there is one."""
    for folder in sorted(path for path in _visible(root) if path.is_dir()):
        if names := [entry.name for entry in _scanned(folder) if entry.is_file()]:
            return f", nor images in folders: {folder / min(names)} is none of {', '.join(SUFFIXES)}"
    return ""


def _holds_images(folder: Path) -> bool:
    return any(entry.name.lower().endswith(SUFFIXES) for entry in _scanned(folder))


def list_place(place: Path, split: str) -> Listing:
    """The images of the one split that a place holds."""
    if place.is_dir():
        return _list_folder(place)
    if not place.is_file():
        raise InputError(f"`data.dir`: there is no folder or tar {place}")
    found = _list_tar(place, split)
    if split not in found:
        raise InputError(
            f"{place} is read as the {split} images, but its folders are named {', '.join(found)}: rename it "
            "or them"
        )
    if others := [name for name in found if name != split]:
        logging.warning(
            "%s has %s images too, which are not read: to read them, name this tar as `data.dir`",
            place, " and ".join(others),
        )  # fmt: skip
    return found[split]


def _list_tar(path: Path, split: str) -> dict[str, Listing]:
    """The images of a tar by split; `split` is what its paths stand for where they tell none."""
    state, labels = state_of_file(path.stat()), label_list(path.parent)

    def make() -> dict[str, Listing]:
        logging.info("listing %s", path)
        found = list_tar(path, SUFFIXES, split_named)
        listings = {}
        for name, groups in found.items():
            try:
                listings[name] = make_listing(path, _by_class(path, groups, labels), in_tar=True)
            except Unlabelled as error:
                if name != "test" or len(found) == 1:
                    raise
                _say_unlabelled(error)
        return listings

    listings = kept_listings(path, [*state, _state(labels)], make)
    return {name or split: dataclasses.replace(listing, state=state) for name, listing in listings.items()}


def _by_class(place: Path, groups: dict[str, list[Entry]], labels: Path | None) -> Mapping[str, list[Entry]]:
    """The images of a split by class, those of ImageNet's validation by the list of labels."""
    outside = groups.pop("", [])
    for name in groups:
        _check_name(place / name)
    if outside and not groups:
        return by_label(place, outside, labels)
    if outside:
        _say_loose(place, len(outside), outside[0].name)
    return groups


def _say_unlabelled(error: Unlabelled) -> None:
    logging.warning("the test images are not read: %s", error)


def _say_loose(place: Path, count: int, example: str) -> None:
    logging.warning("%s: ignoring %d images in no class folder, e.g. %s", place, count, example)


def _list_folder(folder: Path) -> Listing:
    """The images of the class folders in a split's folder; other files are left out with a warning."""
    inside = sorted(_visible(folder))
    classes = [path for path in inside if path.is_dir()]
    labels = None if classes else label_list(folder.parent, folder)
    state = [[os.fsdecode(path.name), path.stat().st_mtime_ns] for path in (folder, *classes)]

    def make() -> dict[str, Listing]:
        groups, ignored, inner = {}, [], []
        for path in classes:
            _check_name(path)
            groups[path.name] = _list_class(path, f"{path.name}/", ignored, inner)
            if not groups[path.name]:
                below = [folder.name for folder in inner if folder.parent == path]
                remedy = f"move those of {first_of(below)} into it" if below else "fill it or remove it"
                raise InputError(f"class folder {path} holds no image ({', '.join(SUFFIXES)}): {remedy}")
        if not classes and (entries := _list_class(folder, "", [], [])):
            groups = by_label(folder, entries, labels)
        loose = [path for path in inside if path.suffix.lower() in SUFFIXES and not path.is_dir()]
        if classes and loose:
            _say_loose(folder, len(loose), loose[0].name)
        broken = [path for path in inside if not path.exists() and path not in loose]  # links, as to a class
        say_what_is_ignored(ignored + broken)
        _say_what_is_not_read("folders", inner)
        return {"": make_listing(folder, groups, in_tar=False)}

    return kept_listings(folder, [state, _state(labels)], make)[""]


def say_what_is_ignored(files: Sequence[Path]) -> None:
    """Tells in the log of files that are no images by their names, if there are any."""
    if files:
        logging.warning("ignoring %d files not in %s, e.g. %s", len(files), ", ".join(SUFFIXES), files[0])


def _list_class(folder: Path, prefix: str, ignored: list[Path], inner: list[Path]) -> list[Entry]:
    """The image files of a folder; other files and folders are added to the lists."""
    found = []
    for entry in _scanned(folder):
        if entry.name.lower().endswith(SUFFIXES):
            found.append(Entry(prefix + entry.name, _size(entry)))
        else:
            (inner if entry.is_dir() else ignored).append(folder / entry.name)
    ignored.sort()
    inner.sort()
    return found


def _scanned(folder: Path) -> list[os.DirEntry]:
    """The visible entries of a folder."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise InputError(f"folder {folder} cannot be read ({error.strerror})") from None


def _size(entry: os.DirEntry) -> int:
    try:
        return entry.stat().st_size
    except OSError:  # a link that leads nowhere: reading it says so
        return -1


def _state(path: Path | None) -> list[Any]:
    """The path, size and time of change of a file, as part of what a kept listing is known by."""
    return [os.path.abspath(path), *state_of_file(path.stat())] if path else []


def _say_what_is_not_read(what: str, paths: list[Path]) -> None:
    if paths:
        logging.warning("%s that are not read: %s", what, first_of(paths))


def visible(path: Path) -> bool:
    """Whether a file is one of the user's: what systems and tools leave beside begins with a dot."""
    return not path.name.startswith(".")


def _visible(folder: Path) -> list[Path]:
    return [folder / entry.name for entry in _scanned(folder)]


def _check_name(folder: Path) -> None:
    """A class is named in pages and files that are UTF-8."""
    try:
        folder.name.encode()
    except UnicodeEncodeError:
        raise InputError(f"the name of class folder {str(folder)!a} is no UTF-8: rename it") from None


def _check_classes(place: Path, split: str, found: set[str], expected: set[str]) -> None:
    """Raises InputError unless a split has the classes of another."""
    groups = {"missing": expected - found, "unknown": found - expected}
    differences = [f"{what}: {first_of(sorted(group), 20)}" for what, group in groups.items() if group]
    composed = [{unicodedata.normalize("NFC", name) for name in names} for names in (found, expected)]
    if differences and composed[0] == composed[1]:
        differences.append("they look alike, as Unicode has two forms of accents: rename them")
    if differences:
        of = "" if place.is_dir() else f" ({split})"
        raise InputError(f"{place}{of} must hold the same class folders as train; {'; '.join(differences)}")
