"""Image-classification sets that tensorflow-datasets has prepared, read without TensorFlow."""

import dataclasses
import errno
import functools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from resnet.data.files.index import kept_listings
from resnet.data.files.layout import split_named
from resnet.data.files.listing import Entry, Listing, make_listing
from resnet.data.files.resident import decode_images
from resnet.data.images import Image8, decode_image
from resnet.data.published.records import FORMATS, Range, features_of, integer
from resnet.data.splits import SPLITS, Source, Split, instead_of, splits_for
from resnet.errors import InputError

PREFIX = "tfds:"
NAME = re.compile(r"tfds:\w+(/[\w.\-+]+)?")
VERSION = re.compile(r"\d+\.\d+\.\d+")  # not "3.0.2.incompleteABC"
IMAGE, LABEL = "image_feature.Image", "class_label_feature.ClassLabel"
PREPARE_AGAIN = "delete that folder and prepare it again"


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A version of a data set on disk, <data_dir>/<name>[/<config>]/<version>."""

    folder: Path
    info: dict[str, Any]
    """What dataset_info.json says."""
    image: str
    """The feature that holds the encoded image."""
    channels: int
    label: str
    class_names: tuple[str, ...]
    """In the order of the labels."""
    splits: dict[str, dict[str, Any]]
    """What is said of each split, by its name there."""

    def listing(self, split: str) -> Listing:
        """The images of a split, by class; read once, and kept where they are many. InputError if damaged."""
        if split not in self.splits:
            raise self._damaged(split, "there is none")
        try:
            paths, count = self._files(split)
        except (LookupError, TypeError, ValueError) as error:
            raise self._damaged(split, f"its description: {error!r}") from None
        try:
            state = [[path.stat().st_size, path.stat().st_mtime_ns] for path in paths]
            records = FORMATS[file_format(self.info)](paths, self.image)
            key = [state, self.image, self.label]
            kept = kept_listings(
                self.folder / split, key, lambda: {"": self._list(split, records, count)}, read=count
            )
        except OSError as error:
            if error.errno == errno.EMFILE:
                raise InputError(f"the {split} split of {self.folder} has {len(paths)} files, more than this "
                                 "process may open: raise the limit (ulimit -n)") from None  # fmt: skip
            raise self._damaged(split, error.strerror or str(error)) from None
        listing = kept[""]
        return dataclasses.replace(listing, reader=records.read)

    def _files(self, split: str) -> tuple[list[Path], int]:
        """The files of a split, and the number of their records."""
        lengths = list(map(int, self.splits[split]["shardLengths"]))
        return [self._file(split, shard, len(lengths)) for shard in range(len(lengths))], sum(lengths)

    def _file(self, split: str, shard: int, shards: int) -> Path:
        template = self.splits[split].get("filepathTemplate", "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}")
        return self.folder / template.format(
            DATASET=self.info["name"],
            SPLIT=split,
            FILEFORMAT=file_format(self.info),
            SHARD_X_OF_Y=f"{shard:05d}-of-{shards:05d}",
            SHARD_INDEX=f"{shard:05d}",
            NUM_SHARDS=f"{shards:05d}",
        )

    def _list(self, split: str, records: Any, count: int) -> Listing:
        """Reads all `count` records; those without a label, -1, are left out. OSError for others."""
        logging.info("listing the %s split of %s", split, self.folder)
        groups: dict[str, list[Entry]] = {name: [] for name in self.class_names}
        number = -1
        for number, (begins, record) in enumerate(records.scan()):
            features = features_of(record)
            if not {self.image, self.label} <= features.keys():
                raise OSError(0, f"record {number} has no {self.image} or no {self.label}")
            label = integer(record, features[self.label])
            if label >= len(self.class_names):
                raise OSError(0, f"record {number} has label {label} of {len(self.class_names)} classes")
            if label < 0:
                continue
            image: Range = features[self.image]
            name = f"{self.class_names[label]}/{split}-{number:08d}"
            entry = Entry(name, image[1] - image[0], records.place_of(begins, image))
            groups[self.class_names[label]].append(entry)
        if number + 1 != count:
            raise OSError(0, f"{number + 1} records of {count}")
        return make_listing(self.folder / split, groups, in_tar=True, classes=self.class_names)

    def _damaged(self, split: str, reason: str) -> InputError:
        return InputError(f"{split} split of {self.folder} cannot be read ({reason}): {PREPARE_AGAIN}")


def file_format(info: Mapping[str, Any]) -> str:
    """The format of a prepared set's files."""
    return info.get("fileFormat", "tfrecord")


def find_version(name: str, root: Path) -> tuple[Path | None, str]:
    """(the newest version of `root`/`name` that can be read, what to say of the others).

    InputError for a version whose description is damaged.
    """
    formats = {}
    for path in (root / name).glob("*/dataset_info.json"):
        if VERSION.fullmatch(path.parent.name):
            try:
                info = json.loads(path.read_bytes())
                if not isinstance(info, dict):
                    raise ValueError("it is no JSON object")
                formats[path.parent] = file_format(info)
            except (OSError, ValueError) as error:
                raise InputError(f"{path} cannot be read ({error}): {PREPARE_AGAIN}") from None
    ready = [folder for folder, found in formats.items() if found in FORMATS]
    if ready:
        return max(ready, key=lambda folder: [int(number) for number in folder.name.split(".")]), ""
    known = " and ".join(FORMATS)
    others = (
        f"; {folder} is in {other} format, and only {known} are read" for folder, other in formats.items()
    )
    return None, "".join(others)


def find_prepared(name: str, root: Path) -> Prepared:
    """The newest version of the set `name`, tfds:NAME or tfds:NAME/CONFIG; InputError if there is none."""
    given = name.removeprefix(PREFIX)
    folder, others = find_version(given, root)
    inner = sorted({path.parents[1].name for path in (root / given).glob("*/*/dataset_info.json")})
    configs = [config for config in inner if find_version(f"{given}/{config}", root)[0]] if not folder else []
    if len(configs) > 1:
        named = ", ".join(f"{name}/{config}" for config in configs)
        raise InputError(f"`data.name`: {name} is prepared in several configs, {named}: name one of them")
    if configs:
        folder, _ = find_version(f"{given}/{configs[0]}", root)
    if not folder:
        raise InputError(
            f"`data.name`: {name} is not prepared in {root / given} (`data.dir`){others}: prepare it by tfds "
            f"build {given} --data_dir={root} --file_format=array_record"
        )
    return open_prepared(folder)


def open_prepared(folder: Path) -> Prepared:
    """What a prepared version says of itself; InputError unless it has an image and a label."""
    try:
        info = json.loads((folder / "dataset_info.json").read_bytes())
        features = json.loads((folder / "features.json").read_bytes())["featuresDict"]["features"]
        image = _feature(folder, features, info, IMAGE, "image")
        label = _feature(folder, features, info, LABEL, "label")
        dimensions = features[image]["image"].get("shape", {}).get("dimensions", ["-1"] * 3)
        channels = 1 if dimensions[-1] == "1" else 3
        names = _class_names(folder, label, features[label])
        splits = {split["name"]: split for split in info.get("splits", ())}
        return Prepared(folder, info, image, channels, label, names, splits)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder} cannot be read ({error!r}): {PREPARE_AGAIN}") from None


def _feature(folder: Path, features: Mapping[str, Any], info: Mapping[str, Any], kind: str, what: str) -> str:
    """The name of the one feature of a kind; of several, the one that is given for supervised learning."""
    found = [name for name, feature in features.items() if feature.get("pythonClassName", "").endswith(kind)]
    items = info.get("supervisedKeys", {}).get("tuple", {}).get("items", ())
    keys = [item.get("featureKey") for item in items]
    chosen = [name for name in found if name in keys] if len(found) > 1 else found
    if len(chosen) != 1:
        had = ", ".join(found) if found else f"none; its features are {', '.join(features)}"
        raise InputError(
            f"`data.name`: {folder} is no image-classification set: it must have one {what}, and has {had}"
        )
    return chosen[0]


def _class_names(folder: Path, label: str, feature: Mapping[str, Any]) -> tuple[str, ...]:
    """The names of the classes in the order of the labels: their numbers, where the set names none."""
    path = folder / f"{label}.labels.txt"
    if path.exists():
        return tuple(path.read_text("utf-8").splitlines())
    return tuple(map(str, range(int(feature["classLabel"]["numClasses"]))))


def list_prepared(prepared: Prepared, chosen: Sequence[str], only: str) -> dict[str, Listing]:
    """The listings of the splits; `chosen` are "train=NAME" and the like, where the names do not tell.

    With `only`, no others are read than are needed.
    """
    names, listing_of = _splits(prepared, chosen), functools.cache(prepared.listing)
    if only == "validation" and only in names and not chosen and not len(listing_of(names[only])):
        del names[only]  # without labels, it was not read in training either
    read = splits_for(only, names)
    needed = read[0]
    if needed not in names:
        raise InputError(
            f"`data.splits`: {prepared.folder} has no {needed} split; it has {', '.join(prepared.splits)}: "
            f"name one as {needed}=…" + (f", or {instead_of(only)}" if only else "")
        )
    found = {}
    for split, name in names.items():
        if split not in read:
            continue
        listing = listing_of(name)
        if len(listing):
            found[split] = listing
        elif split == needed:
            raise InputError(
                f"`data.splits`: the {name} split of {prepared.folder} has no labels: name another"
            )
        else:
            logging.warning("the %s split of %s has no labels, and is not read", name, prepared.folder)
    return found


def _splits(prepared: Prepared, chosen: Sequence[str]) -> dict[str, str]:
    """The prepared split that each of ours is."""
    if not chosen:
        names = _splits_by_name(prepared)
        return {split: names[split] for split in SPLITS if split in names}
    pairs = dict(pair.split("=", 1) for pair in chosen)
    for name in pairs.values():
        if name not in prepared.splits:
            raise InputError(
                f"`data.splits`: {prepared.folder} has no split {name!r}; it has {', '.join(prepared.splits)}"
            )
    return {split: pairs[split] for split in SPLITS if split in pairs}


def _splits_by_name(prepared: Prepared) -> dict[str, str]:
    """The prepared split that stands for each of ours by its name; InputError where two do."""
    names: dict[str, str] = {}
    for name in prepared.splits:
        ours = split_named(name)
        if ours in names:
            raise InputError(
                f"`data.splits`: {names[ours]} and {name} of {prepared.folder} may both be the {ours} split: "
                f"say {ours}=… and name the others"
            )
        if ours:
            names[ours] = name
    return names


def check_splits(field: str, chosen: Sequence[str]) -> None:
    """Raises InputError unless each is train=NAME, validation=NAME or test=NAME, and none is there twice."""
    ours = [pair.partition("=")[0] for pair in chosen]
    known = set(ours) <= set(SPLITS) and len(set(ours)) == len(ours)
    if not known or not all("=" in pair for pair in chosen):
        raise InputError(
            f"`{field}` must be train=NAME, validation=NAME or test=NAME, each once; got {chosen!r}"
        )


def load_prepared(folder: Path) -> Source:
    """Reads a version into memory, with as many channels as its images have, in the order of the records."""
    prepared = open_prepared(folder)
    logging.info("reading %s", folder)
    return Source(
        train=_read_split(prepared, "train"),
        test=_read_split(prepared, "test"),
        class_names=prepared.class_names,
    )


def _read_split(prepared: Prepared, split: str) -> Split:
    listing = prepared.listing(split)
    rows = [int(row) for row in np.argsort(listing.offsets, kind="stable")]

    def decode(content: Path | bytes, name: str) -> Image8:
        return decode_image(content, name, prepared.channels)

    images, _ = decode_images(
        [listing.read(row) for row in rows], [listing.name(row) for row in rows], decode
    )
    return Split(images, listing.labels[rows])
