"""Data in memory: splits of images and labels, how they are drawn, and their statistics."""

import dataclasses
import hashlib
from collections.abc import Collection, Sequence

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int, Int32, Shaped, UInt64

from resnet.data.files.listing import fingerprint_of_files
from resnet.data.files.stream import StreamSplit
from resnet.data.images import Images
from resnet.errors import InputError, first_of

Labels = Int32[np.ndarray, " n"] | Float32[np.ndarray, " n"]
# How what is held out is drawn from the training images.
NAME, PLACE = "name", "place"
SPLITS = ("train", "validation", "test")
Statistic = Float32[np.ndarray, " c"] | Float32[np.ndarray, "h w c"]


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels: int32 classes, or float32 targets of a regression."""

    images: Images
    labels: Labels
    files: UInt64[np.ndarray, "n 2"] | None = None
    """Of images that lie in files of their own: a hash of each one's relative name, and its size in bytes."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | Int[np.ndarray, " m"]) -> "Split":
        files = None if self.files is None else self.files[index]
        return Split(self.images[index], self.labels[index], files)

    @property
    def fingerprint(self) -> str:
        """A hash of the images: of names, sizes and labels of their files in any order, or of their bytes."""
        if self.files is not None:
            return fingerprint_of_files(self.files, self.labels)
        found = hashlib.sha256()
        for array in (self.images, self.labels):
            found.update(f"{array.dtype} {array.shape}".encode())
            found.update(np.ascontiguousarray(array).reshape(-1).data)
        return f"{len(self)} images, sha256 {found.hexdigest()[:16]}"

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        _, height, width, channels = self.images.shape
        return height, width, channels


# The images of a split lie in memory, or stay in their files.
Examples = Split | StreamSplit


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """What a loader returns: the splits as published, empty where there is none.

    A regression has no class names.
    """

    train: Examples
    test: Examples
    class_names: tuple[str, ...] = ()
    validation: Examples | None = None
    unit: str = ""
    target_scale: float = 1.0
    skipped: Sequence[str] = ()
    """Of each image that was left out, which and why; of a stream, those found so far."""


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """The splits of one run, and what follows from the data: outputs, shape, normalisation."""

    train: Examples
    validation: Examples
    """Empty where nothing is held out."""
    test: Examples
    """Empty where the data have none."""
    mean: Statistic
    """Subtracted from the images, in units of 0..255."""
    std: Statistic
    """What the images are divided by afterwards, in units of 0..255."""
    class_names: tuple[str, ...]
    """Names of the classes in the order of the labels; () for a regression."""
    unit: str
    """Unit of `labels * target_scale` in a regression, e.g. degrees."""
    target_scale: float
    skipped: Sequence[str] = ()
    """Of each image that was left out, which and why; of a stream, those found so far."""
    fingerprint: dict[str, str] = dataclasses.field(default_factory=dict)
    """By split as it was read, before anything is held out: what tells its images from others."""
    held_out_by: str = PLACE
    """How the validation split was drawn: by the names of files, or by their places in the whole."""

    @property
    def task(self) -> str:
        """classification or regression."""
        return "classification" if self.class_names else "regression"

    @property
    def num_outputs(self) -> int:
        """Logits of a net for these data: one a class, or 1."""
        return len(self.class_names) or 1

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return self.train.image_shape


def splits_for(only: str, there: Collection[str]) -> tuple[str, ...]:
    """The splits to read for the split `only`, or for all if it is empty; the first must be there.

    Validation images are held out of training where there are none, so each of the two is asked about the
    other.
    """
    if not only:
        return SPLITS
    if only == "validation" and only not in there:
        return ("train",)
    return ("train", "validation") if only == "train" else (only,)


def instead_of(split: str) -> str:
    """The end of an error message: how to ask of another split, where data have no images of this one."""
    other = "validation" if split == "test" else "test"
    return f"ask of another split, by --split={other} of resnet evaluate or --data={other} of resnet analyze"


def without_images(data: str, split: str) -> InputError:
    """The error for a data set that has no images in a split that was asked for."""
    return InputError(f"data set {data!r} has no images in its {split} split; {instead_of(split)}")


def check_labels(source: Source, name: str) -> None:
    """Raises InputError for a label that is no class."""
    classes = len(source.class_names)
    for field in SPLITS:
        split = getattr(source, field)
        if split is None or not classes:
            continue
        outside = np.flatnonzero((split.labels < 0) | (split.labels >= classes))
        if len(outside):
            raise InputError(
                f"{name}: label {split.labels[outside[0]]} of {field} image {outside[0]} is out of "
                f"range; {classes} classes have labels 0 to {classes - 1}"
            )


def of_classes(source: Source, chosen: tuple[str, ...], data: str) -> Source:
    """The images of the chosen classes of data set `data` alone, their labels the places there."""
    if source.class_names == chosen:
        return source
    names = source.class_names
    for name in chosen:
        if name not in names:
            known = f"those of {data} are {first_of(names, 20)}" if names else "it is a regression"
            raise InputError(f"`data.classes`: {data} has no class {name!r}; {known}")
    places = np.full(len(names), -1, np.int32)
    places[[names.index(name) for name in chosen]] = np.arange(len(chosen))

    def kept(split: Examples) -> Examples:
        labels = places[split.labels]
        return dataclasses.replace(split, labels=labels)[np.flatnonzero(labels >= 0)]

    validation = None if source.validation is None else kept(source.validation)
    return dataclasses.replace(
        source,
        train=kept(source.train),
        test=kept(source.test),
        validation=validation,
        class_names=chosen,
    )


def count_repeated(split: Examples, train: Examples) -> int:
    """How many images of a split are training images too, pixel for pixel; 0 where either is streamed."""
    if not (isinstance(split, Split) and isinstance(train, Split)):
        return 0
    known = {hash(image.tobytes()) for image in train.images}
    return sum(hash(image.tobytes()) in known for image in split.images)


def make_random(seed: int) -> np.random.RandomState:
    """Random numbers on the host, of a stream that NumPy promises never to change (NEP 19)."""
    return np.random.RandomState(seed)


def stratified_order(labels: Shaped[np.ndarray, " n"], seed: int) -> Int[np.ndarray, " n"]:
    """A shuffle in which any k successive examples hold each class by its share, within 2.

    Targets of a regression are shuffled freely.
    """
    return _stratified(make_random(seed).permutation(len(labels)), labels)


def _stratified(order: Int[np.ndarray, " k"], labels: Shaped[np.ndarray, " n"]) -> Int[np.ndarray, " k"]:
    """An order of some examples with their classes mixed evenly; within a class it stays."""
    if not np.issubdtype(labels.dtype, np.integer):
        return order
    mixed = labels[order]
    counts = np.unique(mixed, return_counts=True)[1]
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    place = np.empty(len(order))  # in 0..1, each class spread evenly over it
    place[np.argsort(mixed, kind="stable")] = (rank + 0.5) / np.repeat(counts, counts)
    return order[np.argsort(place, kind="stable")]


def hold_out(
    split: Examples, share: float, seed: int, by: str
) -> tuple[Int[np.ndarray, " k"], Int[np.ndarray, " h"]]:
    """The images that are trained on, shuffled and stratified, and those held out.

    By name, each file is held out with the probability `share`, by a hash of its name alone: a file that
    is added, removed or renamed moves no other. How many of a class are held out is left to chance, but
    one of each class is trained on and one file of all is held out; for these two rules alone, a file
    added to a class of very few may move another. By place, a stratified shuffle is cut: the shares are
    exact, but any change of the whole moves them all.
    """
    if by == PLACE or split.files is None:
        order = stratified_order(split.labels, seed)
        count = round(share * len(order))
        return order[count:], order[:count]
    draws = _draws(split.files[:, 0], seed)
    held = _held_out(draws, split.labels, share)
    order = np.argsort(draws, kind="stable")
    kept = order[~held[order]]
    return _stratified(kept, split.labels), np.flatnonzero(held)


def _held_out(
    draws: Float64[np.ndarray, " n"], labels: Int32[np.ndarray, " n"], share: float
) -> Bool[np.ndarray, " n"]:
    """Marks the draws below the share, or the lowest if there are none; never the highest of a class."""
    free = np.ones(len(draws), bool)
    by_class = np.lexsort((draws, labels))
    free[by_class[np.diff(labels[by_class], append=-1) != 0]] = False
    held = free & (draws < share)
    if share and free.any() and not held.any():
        held[np.flatnonzero(free)[draws[free].argmin()]] = True
    return held


def _draws(names: UInt64[np.ndarray, " n"], seed: int) -> Float64[np.ndarray, " n"]:
    """A number in 0..1 for each name, which depends on the name and the seed alone."""
    key = seed.to_bytes(8, "little")
    drawn = (hashlib.blake2b(name.tobytes(), digest_size=8, key=key).digest() for name in names)
    return np.frombuffer(b"".join(drawn), "<u8") / 2**64
