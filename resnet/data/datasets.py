"""DataConfig, and the data set it describes: every image in memory, as uint8."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np

from resnet.data import splits
from resnet.data.embedded import load_digits, load_digits_rotation, load_synthetic
from resnet.data.folder import load_folder
from resnet.data.idx import find_idx, load_idx
from resnet.data.prepared import DEFAULT_DIR, PREPARED, load_prepared
from resnet.data.splits import Dataset, Source, Split
from resnet.errors import InputError, check_at_least, check_choice
from resnet.files import check_path, local_path

NORMALIZATIONS = ("channel", "pixel_mean", "none")
ON_BAD_IMAGE = ("error", "skip")
SHIFT_FILLS = ("zero", "reflect")


@dataclasses.dataclass(unsafe_hash=True)
class DataConfig:
    """Which images, how they are split, normalised and augmented."""

    name: str = "digits"
    """digits, digits_rotation, synthetic, image_folder, or prepared by tensorflow-datasets: mnist,
    fashion_mnist, cifar10, cifar100, svhn_cropped"""
    dir: str = ""
    """where the data lie: root of image_folder, the IDX files of mnist or fashion_mnist, or tfds's data_dir
    (empty: ~/tensorflow_datasets; fashion_mnist also where Debian's dataset-fashion-mnist puts it)"""
    classes: tuple[str, ...] = ()
    """names of the classes kept, in the order of their labels; empty: all"""
    validation: float = 0.1
    """share of the training images held out, stratified; a validation/ folder takes its place"""
    split_seed: int = 0
    """seed of what is held out, of what train_limit keeps, and of the angles of digits_rotation"""
    train_limit: int = 0
    """number of training images kept, stratified; 0 keeps all"""
    image_size: int = 0
    """side in pixels to which image_folder's images are resized; 0: all are equal, and stay so"""
    on_bad_image: str = "error"
    """what an image file of image_folder that cannot be read does: error, or skip, listed with the run"""
    shift: int = 0
    """largest random shift in pixels, each way; He 2015's "pad 4, crop 32" is 4"""
    shift_fill: str = "zero"
    """what a shift brings into view: zero (after normalisation, the mean) or reflect"""
    flip: bool = False
    """mirror half of the training images left to right"""
    cutout: int = 0
    """side in pixels of a square erased from each training image (DeVries & Taylor 2017); 0: none"""
    normalization: str = "channel"
    """channel: (x - mean) / std of its channel; pixel_mean: (x - mean of its pixel) / 255; none:
    x / 255"""
    mean: tuple[float, ...] = ()
    """mean of each channel, in units of 0..1; empty: that of the training images"""
    std: tuple[float, ...] = ()
    """standard deviation of each channel, in units of 0..1; empty: that of the training images"""

    def check(self) -> None:
        """Raises InputError naming the first field that cannot work."""
        check_choice("data.name", self.name, DATASETS)
        check_choice("data.shift_fill", self.shift_fill, SHIFT_FILLS)
        check_choice("data.normalization", self.normalization, NORMALIZATIONS)
        check_choice("data.on_bad_image", self.on_bad_image, ON_BAD_IMAGE)
        for field in ("validation", "split_seed", "train_limit", "image_size", "shift", "cutout"):
            check_at_least(f"data.{field}", getattr(self, field), 0)
        check_path("data.dir", self.dir)
        if len(self.classes) == 1 or len(set(self.classes)) < len(self.classes):
            raise InputError(f"`data.classes` must be two or more, each once; got {self.classes!r}")
        if self.validation >= 1:
            raise InputError(f"`data.validation` must be a share below 1; got {self.validation!r}")
        if self.split_seed >= 2**32:
            raise InputError(f"`data.split_seed` must be below 2**32; got {self.split_seed!r}")
        if self.name == "image_folder" and not self.dir:
            raise InputError("`data.dir` must name the folder of image_folder; got ''")
        if self.name != "image_folder" and self.image_size:
            raise InputError(
                f"`data.image_size` resizes image_folder only, and must be 0 for {self.name}; "
                f"got {self.image_size!r}"
            )
        if self.name != "image_folder" and self.on_bad_image != "error":
            raise InputError(
                f"`data.on_bad_image` skips files of image_folder only, and must be error for {self.name}; "
                f"got {self.on_bad_image!r}"
            )
        if self.name == "digits_rotation" and self.flip:
            raise InputError("`data.flip` must be False for digits_rotation: it reverses angles")
        if self.normalization != "channel" and (self.mean or self.std):
            raise InputError(
                f"`data.mean` and `data.std` need `data.normalization` channel; got {self.normalization!r}"
            )
        if not all(value > 0 for value in self.std):
            raise InputError(f"`data.std` must be positive; got {self.std!r}")


def _folder(path: str) -> Path:
    return local_path(path).absolute()


def _load_published(config: DataConfig) -> Source:
    """From IDX files where they are found, else as tensorflow-datasets prepared it."""
    folder = find_idx(config.name, _folder(config.dir) if config.dir else None)
    if folder:
        return load_idx(config.name, folder)
    return load_prepared(config.name, _folder(config.dir or DEFAULT_DIR))


DATASETS: dict[str, Callable[[DataConfig], Source]] = {
    "digits": lambda config: load_digits(),
    "digits_rotation": lambda config: load_digits_rotation(config.split_seed),
    "synthetic": lambda config: load_synthetic(),
    "image_folder": lambda config: load_folder(
        _folder(config.dir), config.image_size, skip=config.on_bad_image == "skip"
    ),
    **dict.fromkeys(PREPARED, _load_published),
}


def load_dataset(config: DataConfig) -> Dataset:
    """Reads the data, holds out the validation split and takes the statistics of what is left."""
    config.check()
    source = DATASETS[config.name](config)
    _check_labels(source, config.name)
    source = _chosen(source, config) if config.classes else source
    train, validation = _hold_out(source, config)
    mean, std = _statistics(train, config)
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
    )
    _check_augmentation(dataset, config)
    return dataset


def shapes_of(config: DataConfig) -> tuple[tuple[int, int, int], int]:
    """(image shape, outputs of a net) of a data set; a prepared one need not be at hand."""
    if config.name in PREPARED:
        shape, classes = PREPARED[config.name]
        return shape, len(config.classes) or classes
    dataset = load_dataset(config)
    return dataset.image_shape, dataset.num_outputs


def _check_labels(source: Source, name: str) -> None:
    classes = len(source.class_names)
    for field in ("train", "validation", "test"):
        split = getattr(source, field)
        if split is None or not classes:
            continue
        outside = np.flatnonzero((split.labels < 0) | (split.labels >= classes))
        if len(outside):
            raise InputError(
                f"{name}: label {split.labels[outside[0]]} of {field} image {outside[0]} is out of "
                f"range; {classes} classes have labels 0 to {classes - 1}"
            )


def _chosen(source: Source, config: DataConfig) -> Source:
    """The images of `config.classes` alone, their labels the places there."""
    names = source.class_names
    for name in config.classes:
        if name not in names:
            known = f"those of {config.name} are {', '.join(names[:20])}" if names else "it is a regression"
            raise InputError(f"`data.classes`: {config.name} has no class {name!r}; {known}")
    places = np.full(len(names), -1, np.int32)
    places[[names.index(name) for name in config.classes]] = np.arange(len(config.classes))

    def kept(split: Split) -> Split:
        labels = places[split.labels]
        return Split(split.images[labels >= 0], labels[labels >= 0])

    validation = None if source.validation is None else kept(source.validation)
    return Source(kept(source.train), kept(source.test), config.classes, validation)


def _hold_out(source: Source, config: DataConfig) -> tuple[Split, Split]:
    """The training and the validation split, both taken from one stratified shuffle."""
    order = splits.stratified_order(source.train.labels, config.split_seed)
    share = config.validation if source.validation is None else 0
    held_out = round(share * len(order))
    kept = len(order) - held_out
    if kept == 0 or (share and held_out == 0):
        raise InputError(
            f"`data.validation` must leave images on both sides; {share!r} of {len(order)} images "
            f"holds out {held_out}"
        )
    if config.train_limit > kept:
        raise InputError(
            f"`data.train_limit` must be at most {kept}, the training images of {config.name}; "
            f"got {config.train_limit!r}"
        )
    train = source.train[order[held_out : held_out + (config.train_limit or kept)]]
    validation = source.train[order[:held_out]] if source.validation is None else source.validation
    return train, validation


def _statistics(train: Split, config: DataConfig) -> tuple[splits.Statistic, splits.Statistic]:
    """What is subtracted from images and what they are divided by, in units of 0..255."""
    channels = train.images.shape[-1]
    if config.normalization == "none":
        mean, std = np.zeros(channels), np.full(channels, 255.0)
    elif config.normalization == "pixel_mean":  # He 2015 divides by nothing, or does not say so
        mean, std = train.images.mean(axis=0, dtype=np.float64), np.full(channels, 255.0)
    else:
        mean, std = splits.channel_statistics(train.images)
    for field, given in (("mean", config.mean), ("std", config.std)):
        if given and len(given) != channels:
            raise InputError(
                f"`data.{field}` must have one value for each of {channels} channels; got {given!r}"
            )
    mean = np.multiply(config.mean, 255) if config.mean else mean
    std = np.multiply(config.std, 255) if config.std else std
    return mean.astype(np.float32), std.astype(np.float32)


def _check_augmentation(dataset: Dataset, config: DataConfig) -> None:
    height, width, _ = dataset.image_shape
    for field in ("shift", "cutout"):
        if getattr(config, field) >= min(height, width):
            raise InputError(
                f"`data.{field}` must be less than the images' sides, {width}x{height} pixels; "
                f"got {getattr(config, field)!r}"
            )
