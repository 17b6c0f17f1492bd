"""Images in folders: train|validation|test/<class>/*.{jpg,jpeg,png}."""

import os
from collections.abc import Collection
from pathlib import Path

import numpy as np
from absl import logging

from resnet.data.images import BadImage, decode_images
from resnet.data.splits import Source, Split, hash_name
from resnet.errors import InputError

SUFFIXES = (".jpg", ".jpeg", ".png")  # in any case
LAYOUT = "train/<class>/*.jpg and test/<class>/*.jpg (or .jpeg, .png)"
SHOWN = 5  # folders named in one line of the log
# What the folders of the splits are called, in any case.
NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}


def load_image_folder(
    root: Path, image_size: int, *, skip: bool = False, chosen: Collection[str] = (), only: str = ""
) -> Source:
    """Reads the images under `root`; the folder names in train/, sorted, are the classes.

    With `skip`, images that cannot be read are left out, and listed. Of `chosen` classes, if there are
    all of them, no others are read. With `only`, nothing is read but that split, and train/ where it
    is held out from there.
    """
    folders = _find_splits(root)
    if only:
        needed = "train" if only == "validation" and only not in folders else only
        folders = {name: folder for name, folder in folders.items() if name == needed}
    else:
        needed = "train"
    if needed not in folders:
        raise InputError(f"there is no folder {root / needed}; `data.dir` must hold {LAYOUT}")
    if not only and "test" not in folders:
        logging.warning("%s has no test images: results will be those of the validation split", root)
    listings = {name: _list_split(folder) for name, folder in folders.items()}
    classes = tuple(listings[needed])
    if len(classes) < 2:
        raise InputError(f"{folders[needed]} must hold at least two class folders: {LAYOUT}")
    for name, listing in listings.items():
        _check_classes(folders[name], set(listing), set(classes))
    if chosen and set(chosen) <= set(classes):
        classes = tuple(name for name in classes if name in chosen)
        listings = {name: {label: every[label] for label in classes} for name, every in listings.items()}
    return _read(root, listings, classes, image_size, skip)


def _read(
    root: Path,
    listings: dict[str, dict[str, list[Path]]],
    classes: tuple[str, ...],
    image_size: int,
    skip: bool,
) -> Source:
    """The images of all splits, decoded together, so that all are of one size."""
    files = [file for listing in listings.values() for group in listing.values() for file in group]
    logging.info("reading %d images from %s", len(files), root)
    try:
        images, bad = decode_images(files, [str(file) for file in files], image_size=image_size, skip=skip)
    except BadImage as error:
        raise InputError(f"{error}, or set `data.on_bad_image` to skip") from None
    if bad:
        logging.warning("skipping %d of %d images, e.g. %s", len(bad), len(files), next(iter(bad.values())))
    good = np.delete(np.arange(len(files)), list(bad))
    known = np.array([_identity(files[index]) for index in good], np.uint64).reshape(-1, 2)
    splits, place = {}, 0
    for name, listing in listings.items():
        counts = [len(group) for group in listing.values()]
        labels = np.repeat(np.arange(len(classes), dtype=np.int32), counts)
        # The rows of this split among those that could be read.
        start, stop = np.searchsorted(good, (place, place + len(labels)))
        labels = labels[good[start:stop] - place]
        for label in np.flatnonzero(np.bincount(labels, minlength=len(classes)) == 0):
            folder = listing[classes[label]][0].parent
            raise InputError(f"class folder {folder} holds no image that can be read")
        splits[name] = Split(images[start:stop], labels, known[start:stop])
        place += sum(counts)
    nothing = Split(images[:0], np.zeros(0, np.int32), known[:0])
    return Source(
        train=splits.get("train", nothing),
        test=splits.get("test", nothing),
        class_names=classes,
        validation=splits.get("validation"),
        skipped=tuple(bad.values()),
    )


def _identity(file: Path) -> tuple[int, int]:
    """Identifies a file within its split: its path below the split's folder, and its size."""
    return hash_name(b"/".join(map(os.fsencode, file.parts[-2:]))), file.stat().st_size


def _find_splits(root: Path) -> dict[str, Path]:
    """The folder of each split that is there; names those that are no split in the log."""
    if not root.is_dir():
        raise InputError(f"`data.dir`: there is no folder {root}; it must hold {LAYOUT}")
    folders = sorted(path for path in _visible(root) if path.is_dir())
    found = {}
    for split, names in NAMES.items():
        matching = [folder for folder in folders if folder.name.lower() in names]
        if len(matching) > 1:
            both = " and ".join(str(folder) for folder in matching)
            raise InputError(f"{both} may both hold the {split} images: keep one of them")
        if matching:
            found[split] = matching[0]
    _say_what_is_not_read([folder for folder in folders if folder not in found.values()])
    return found


def _list_split(folder: Path) -> dict[str, list[Path]]:
    """The image files of each class, both sorted; other files are left out with a warning."""
    classes, ignored, inner = {}, [], []
    for class_folder in sorted(_visible(folder)):
        if not class_folder.is_dir():
            continue
        _check_name(class_folder)
        files = sorted(_visible(class_folder))
        images = [file for file in files if file.suffix.lower() in SUFFIXES]
        others = [file for file in files if file.suffix.lower() not in SUFFIXES]
        inner += [file for file in others if file.is_dir()]
        ignored += [file for file in others if not file.is_dir()]
        if not images:
            raise InputError(
                f"class folder {class_folder} holds no image ({', '.join(SUFFIXES)}): fill it or remove it"
            )
        classes[class_folder.name] = images
    if ignored:
        suffixes = ", ".join(SUFFIXES)
        logging.warning("ignoring %d files not in %s, e.g. %s", len(ignored), suffixes, ignored[0])
    _say_what_is_not_read(inner)
    return classes


def _say_what_is_not_read(folders: list[Path]) -> None:
    if folders:
        rest = f" and {len(folders) - SHOWN} more" if len(folders) > SHOWN else ""
        logging.warning("folders that are not read: %s%s", ", ".join(map(str, folders[:SHOWN])), rest)


def visible(path: Path) -> bool:
    """Whether a file or folder is visible; names of what systems and tools leave begin with a dot."""
    return not path.name.startswith(".")


def _visible(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if visible(path)]
    except OSError as error:
        raise InputError(f"folder {folder} cannot be read ({error.strerror})") from None


def _check_name(folder: Path) -> None:
    """Raises InputError for a class name that is not UTF-8, as pages and files are."""
    try:
        folder.name.encode()
    except UnicodeEncodeError:
        raise InputError(f"the name of class folder {str(folder)!a} is no UTF-8: rename it") from None


def _check_classes(folder: Path, found: set[str], expected: set[str]) -> None:
    groups = {"missing": expected - found, "unknown": found - expected}
    differences = [f"{what}: {', '.join(sorted(group))}" for what, group in groups.items() if group]
    if differences:
        raise InputError(f"{folder} must hold the same class folders as train; {'; '.join(differences)}")
