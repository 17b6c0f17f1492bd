"""The data set that a DataConfig describes: images in memory, as uint8, or streamed from their files."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from absl import logging

from resnet.data import splits
from resnet.data.config import DataConfig
from resnet.data.embedded import EMBEDDED
from resnet.data.files.decoders import check_decoder_installed
from resnet.data.files.layout import find_listings
from resnet.data.files.listing import Listing
from resnet.data.folder import load_files
from resnet.data.published.sets import PUBLISHED, TFDS_DIR, load_published
from resnet.data.published.tfds import PREFIX, find_prepared, list_prepared
from resnet.data.splits import NAME, PLACE, SPLITS, Dataset, Examples, Source
from resnet.data.statistics import statistics
from resnet.errors import InputError, check_choice, first_of
from resnet.files import local_path


def folder_of(config: DataConfig) -> Path:
    """The folder, or the file, that data.dir names."""
    return local_path(config.dir).absolute()


def _load_folder(config: DataConfig, only: str) -> Source:
    root = folder_of(config)
    return _load_files(config, root, find_listings(root, only), only)


def _load_prepared(config: DataConfig, only: str) -> Source:
    prepared = find_prepared(config.name, local_path(config.dir or TFDS_DIR).absolute())
    return _load_files(config, prepared.folder, list_prepared(prepared, config.splits, only), only)


def _load_files(config: DataConfig, root: Path, listings: Mapping[str, Listing], only: str) -> Source:
    return load_files(
        root,
        listings,
        config.sizes,
        storage=config.storage,
        memory_gb=config.memory_gb,
        bad_limit=config.bad_limit,
        skip=config.on_bad_image == "skip",
        chosen=config.classes,
        only=only,
    )


# Each may read less than all where one split `only` is asked for.
DATASETS: dict[str, Callable[[DataConfig, str], Source]] = {
    **dict.fromkeys(EMBEDDED, lambda config, only: EMBEDDED[config.name](config.split_seed)),
    "image_folder": _load_folder,
    **dict.fromkeys(PUBLISHED, lambda config, only: load_published(config.name, config.dir)),
}


def load_dataset(config: DataConfig, held_out_by: str = NAME) -> Dataset:
    """Reads the data, holds out the validation split and takes the statistics of what is left.

    Images without files of their own are held out by place, whatever `held_out_by` says.
    """
    source = _read(config)
    train, validation = _hold_out(source, config, held_out_by)
    mean, std = statistics(train, config.normalization, config.mean, config.std)
    read = {name: getattr(source, name) for name in SPLITS}
    dataset = Dataset(
        train=train,
        validation=validation,
        test=source.test,
        mean=mean,
        std=std,
        class_names=source.class_names,
        unit=source.unit,
        target_scale=source.target_scale,
        skipped=source.skipped,
        fingerprint={name: split.fingerprint for name, split in read.items() if split},
        held_out_by=PLACE if source.train.files is None else held_out_by,
    )
    _say_what_misleads(dataset)
    return dataset


def _say_what_misleads(dataset: Dataset) -> None:
    """Warns of images of another split that are trained on too, and of classes that a split lacks."""
    for name in SPLITS:
        split = getattr(dataset, name)
        if name != "train" and (repeated := splits.count_repeated(split, dataset.train)):
            logging.warning(
                "%d of %d %s images are training images too, pixel for pixel: scores on them tell what was "
                "learnt by heart",
                repeated, len(split), name,
            )  # fmt: skip
        if len(split) and dataset.class_names:
            absent = np.setdiff1d(np.arange(dataset.num_outputs), split.labels)
            if len(absent):
                names = first_of(dataset.class_names[label] for label in absent)
                logging.warning("no %s image is of class %s", name, names)


def load_split(config: DataConfig, name: str, held_out_by: str = NAME) -> tuple[Examples, Source]:
    """Reads one split, and returns it with its source, which may have read no more than it needs for that."""
    check_choice("split", name, SPLITS)
    source = _read(config, only=name)
    if name == "test" or (name == "validation" and source.validation is not None):
        return getattr(source, name), source
    train, validation = _hold_out(source, config, held_out_by)
    return (train if name == "train" else validation), source


def _read(config: DataConfig, only: str = "") -> Source:
    """Reads what the loader of the data set gives, and keeps the chosen classes."""
    config.check()
    check_decoder_installed(config.decoder)
    load = _load_prepared if config.name.startswith(PREFIX) else DATASETS[config.name]
    source = load(config, only)
    splits.check_labels(source, config.name)
    return splits.of_classes(source, config.classes, config.name) if config.classes else source


def shapes_of(config: DataConfig) -> tuple[tuple[int, int, int], int]:
    """(image shape, outputs of a net) of a data set; a published one need not be at hand."""
    if published := PUBLISHED.get(config.name):
        return published.shape, len(config.classes) or published.classes
    dataset = load_dataset(config)
    return dataset.image_shape, dataset.num_outputs


def _hold_out(source: Source, config: DataConfig, by: str) -> tuple[Examples, Examples]:
    """The training split, and the validation split where the data have none of their own."""
    share = config.validation if source.validation is None else 0
    if share != config.validation != DataConfig.validation:
        logging.info("`data.validation` has no effect: %s has validation images of its own", config.name)
    kept, held_out = splits.hold_out(source.train, share, config.split_seed, by)
    if len(kept) == 0 or (share and len(held_out) == 0):
        raise InputError(
            f"`data.validation` must leave images on both sides; {share!r} of {len(source.train)} images "
            f"holds out {len(held_out)}: choose another share, or another `data.split_seed`"
        )
    if config.train_limit > len(kept):
        raise InputError(
            f"`data.train_limit` must be at most {len(kept)}, the training images of {config.name}; "
            f"got {config.train_limit!r}"
        )
    train = source.train[kept[: config.train_limit or len(kept)]]
    return train, source.train[held_out] if source.validation is None else source.validation
