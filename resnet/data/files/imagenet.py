"""The labels of ImageNet's validation images, which lie in no class folders: from the lists in use."""

import csv
import importlib.util
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from resnet.data.files.listing import Entry
from resnet.errors import InputError

NAME = re.compile(r"ILSVRC2012_val_\d{8}\.JPEG")
# One class a line, in the order of the names of the images.
LISTS = ("imagenet_2012_validation_synset_labels.txt", "validation_labels.txt")
KAGGLE = "LOC_val_solution.csv"
IN_TFDS = "datasets/imagenet2012/validation_labels.txt"  # the same list, in the package tensorflow-datasets


class Unlabelled(InputError):
    """Images of a place lie in no class folders, and no list has their labels."""


def label_list(*beside: Path) -> Path | None:
    """The list of validation labels in one of the folders, or else the one of tensorflow-datasets."""
    package = importlib.util.find_spec("tensorflow_datasets")
    installed = package.submodule_search_locations or [] if package else []
    paths = [folder / name for folder in beside for name in (*LISTS, KAGGLE)]
    paths += [Path(place) / IN_TFDS for place in installed]
    return next((path for path in paths if path.is_file()), None)


def by_label(place: Path, entries: Sequence[Entry], labels: Path | None) -> Mapping[str, list[Entry]]:
    """Validation images by their class. InputError if they are others, or the list does not fit them."""
    strange = [entry.name for entry in entries if not NAME.fullmatch(entry.name)]
    if strange:
        raise Unlabelled(
            f"{place}: image {strange[0]} lies in no class folder: put it into one. If the place is a class "
            "itself, put all classes into a folder named train; images without labels belong elsewhere"
        )
    if labels is None:
        raise InputError(
            f"{place} holds ImageNet's validation images without labels: put {LISTS[0]} beside it"
        )
    entries = sorted(entries, key=lambda entry: entry.name)
    try:
        classes = _read_list(labels, [entry.name for entry in entries])
    except (OSError, ValueError, LookupError, csv.Error) as error:
        raise InputError(f"{labels} cannot be read as a list of labels ({error})") from None
    if len(classes) != len(entries):
        raise InputError(f"{labels} has {len(classes):,} labels, and {place} {len(entries):,} images")
    groups: dict[str, list[Entry]] = {}
    for entry, label in zip(entries, classes, strict=True):
        groups.setdefault(label, []).append(entry)
    return groups


def _read_list(path: Path, names: Sequence[str]) -> list[str]:
    """The class of each image, in the order of the names."""
    if path.name == KAGGLE:  # a row is "ILSVRC2012_val_00048981,n03995372 85 1 499 272": class, then boxes
        with path.open(newline="", encoding="utf-8") as file:
            rows = [(row["ImageId"], row["PredictionString"] or "") for row in csv.DictReader(file)]
        known = {image: text.split()[0] for image, text in rows}
        return [known[name.removesuffix(".JPEG")] for name in names]
    return path.read_text("utf-8").split()
