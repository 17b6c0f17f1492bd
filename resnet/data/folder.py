"""Images in folders: train|validation|test/<class>/*.{jpg,jpeg,png}."""

from pathlib import Path

import numpy as np
from absl import logging

from resnet.data.images import decode_images
from resnet.data.splits import Source, Split
from resnet.errors import InputError

SUFFIXES = (".jpg", ".jpeg", ".png")  # in any case
LAYOUT = "train/<class>/*.jpg and test/<class>/*.jpg (or .jpeg, .png)"


def load_folder(root: Path, image_size: int, skip: bool = False) -> Source:
    """Reads all images under `root`; the folder names in train/, sorted, are the classes.

    With `skip`, images that cannot be read are left out, and listed.
    """
    if not root.is_dir():
        raise InputError(f"`data.dir`: there is no folder {root}; it must hold {LAYOUT}")
    held_out = ["validation"] if (root / "validation").exists() else []
    listings = {name: _list_split(root / name) for name in ["train", *held_out, "test"]}
    classes = tuple(listings["train"])
    if len(classes) < 2:
        raise InputError(f"{root / 'train'} must hold at least two class folders: {LAYOUT}")
    for name, listing in listings.items():
        _check_classes(root / name, set(listing), set(classes))

    files = [file for listing in listings.values() for group in listing.values() for file in group]
    logging.info("reading %d images from %s", len(files), root)
    names = [str(file) for file in files]
    images, bad = decode_images(files, names, image_size=image_size, skip=skip)
    if bad:
        logging.warning("skipping %d of %d images, e.g. %s", len(bad), len(files), next(iter(bad.values())))
    splits, start, place = {}, 0, 0
    for name, listing in listings.items():
        counts = []
        for label, group in listing.items():
            counts.append(len(group) - sum(index in bad for index in range(place, place + len(group))))
            place += len(group)
            if not counts[-1]:
                raise InputError(f"class folder {root / name / label} holds no image that can be read")
        labels = np.repeat(np.arange(len(classes), dtype=np.int32), counts)
        splits[name] = Split(images[start : start + len(labels)], labels)
        start += len(labels)
    skipped = tuple(bad.values())
    return Source(splits["train"], splits["test"], classes, splits.get("validation"), skipped=skipped)


def _list_split(folder: Path) -> dict[str, list[Path]]:
    """The image files of each class, both sorted; other files are left out with a warning."""
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; `data.dir` must hold {LAYOUT}")
    classes, ignored = {}, []
    for class_folder in sorted(_visible(folder)):
        if not class_folder.is_dir():
            continue
        files = sorted(_visible(class_folder))
        images = [file for file in files if file.suffix.lower() in SUFFIXES]
        ignored += [file for file in files if file.suffix.lower() not in SUFFIXES]
        if not images:
            raise InputError(
                f"class folder {class_folder} holds no image ({', '.join(SUFFIXES)}): fill it or remove it"
            )
        classes[class_folder.name] = images
    if ignored:
        suffixes = ", ".join(SUFFIXES)
        logging.warning("ignoring %d files not in %s, e.g. %s", len(ignored), suffixes, ignored[0])
    return classes


def _visible(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise InputError(f"folder {folder} cannot be read ({error.strerror})") from None


def _check_classes(folder: Path, found: set[str], expected: set[str]) -> None:
    groups = {"missing": expected - found, "unknown": found - expected}
    differences = [f"{what}: {', '.join(sorted(group))}" for what, group in groups.items() if group]
    if differences:
        raise InputError(f"{folder} must hold the same class folders as train; {'; '.join(differences)}")
