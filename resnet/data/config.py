"""Which images a run is trained on, and how they are split, normalised and augmented: the section `data`."""

import dataclasses

from resnet.data.augment import Cutout, Flip, ImageOperation, RandomCrop, parse_operation
from resnet.data.augmentation.policies import Policy
from resnet.data.embedded import EMBEDDED
from resnet.data.files.decoders import DECODERS
from resnet.data.files.stream import Sizes
from resnet.data.folder import STORAGES, are_streamed
from resnet.data.published.sets import PUBLISHED
from resnet.data.published.tfds import NAME as NAME_IN_TFDS
from resnet.data.published.tfds import PREFIX, check_splits
from resnet.data.statistics import NORMALIZATIONS, check_sides
from resnet.errors import InputError, check_at_least, check_choice, check_within
from resnet.fields import Fields
from resnet.files import check_path

ON_BAD_IMAGE = ("error", "skip")
# Fields that say what training images go through; others are not augmented.
OF_TRAINING = (
    "random_crop",
    "random_crop_fill",
    "flip",
    "alternate_flip",
    "cutout",
    "augmentation",
    "repeats",
)
# Fields that say something of image files.
OF_FILES = ("image_size", "random_resized_crop", "eval_size", "eval_crop", "decoder", "storage",
            "on_bad_image")  # fmt: skip


@dataclasses.dataclass(unsafe_hash=True)
class DataConfig(Fields, section="data"):
    """Which images, how they are split, normalised and augmented."""

    name: str = "digits"
    """digits, digits_rotation, synthetic, image_folder, or published: mnist, fashion_mnist, cifar10,
    cifar100, svhn_cropped; or tfds:NAME[/CONFIG], an image-classification set that tensorflow-datasets
    prepared"""
    splits: tuple[str, ...] = ()
    """which splits of tfds:NAME are ours, e.g. "train=train, test=validation"; empty: by their names"""
    dir: str = ""
    """folder of the data: for image_folder its root; for a published set the --dir of `resnet prepare`
    (empty: ~/datasets) or the data_dir of tfds (empty: ~/tensorflow_datasets)"""
    classes: tuple[str, ...] = ()
    """names of the classes kept, in the order of their labels; empty: all"""
    validation: float = 0.1
    """share of the training images that is held out for validation, of each class; image files are chosen by
    a hash of their names. A validation/ folder takes its place"""
    split_seed: int = 0
    """seed of what is held out, of what train_limit keeps, and of the angles of digits_rotation"""
    train_limit: int = 0
    """number of training images kept, stratified; 0 keeps all"""
    image_size: int = 0
    """side in pixels to which images of image_folder are resized; 0: all have one size, and keep it"""
    random_resized_crop: float = 0.0
    """smallest share of its area that a random crop of a training image of image_folder has, drawn anew for
    each batch and resized to image_size (Szegedy 2015: 0.08); 0: the largest square in the middle"""
    eval_size: int = 0
    """side in pixels of the images of image_folder that are evaluated; 0: image_size"""
    eval_crop: float = 0.0
    """share of the shorter side that the crop of an evaluated image keeps: the image is resized to a shorter
    side of eval_size / eval_crop, and eval_size pixels are cut out (usual: 0.875); 0: the largest square is
    resized"""
    eval_flip: bool = False
    """average the logits of each image that is evaluated and of its mirror image"""
    decoder: str = "pillow"
    """decoder of JPEGs: pillow, or simplejpeg, faster since it shrinks while it decodes; other pixels"""
    storage: str = "auto"
    """where image_folder's images are held: memory, or stream, decoded for each batch; auto: a stream where
    they are cut anew each time or would take more than memory_gb"""
    memory_gb: float = 8.0
    """most GB of decoded images that storage auto holds in memory; larger sets are streamed"""
    on_bad_image: str = "error"
    """what follows an image file that cannot be read into memory: error, or skip, which lists it with the
    run; a stream obeys bad_limit instead"""
    bad_limit: float = 0.001
    """largest share of unreadable images among the training images of a stream; each is listed, and another
    takes its place"""
    random_crop: int = 0
    """pixels of padding around a training image, out of which a crop of its own size is drawn (He 2015: 4)"""
    random_crop_fill: str = "zero"
    """values of that padding: zero (after normalisation, the mean) or reflect (the image mirrored)"""
    flip: bool = False
    """mirror half of the training images left to right"""
    alternate_flip: bool = False
    """mirror each training image in every other epoch instead; in which ones is drawn once for each image"""
    cutout: int = 0
    """side in pixels of a square erased from each training image (DeVries & Taylor 2017); 0: none"""
    normalization: str = "channel"
    """channel: (x - mean) / std of its channel; pixel_mean: (x - mean of its pixel) / 255; none:
    x / 255"""
    mean: tuple[float, ...] = ()
    """mean of each channel, in units of 0..1; empty: that of the training images"""
    std: tuple[float, ...] = ()
    """standard deviation of each channel, in units of 0..1; empty: that of the training images"""
    augmentation: tuple[str, ...] = ()
    """operations of data/augment.py, e.g. "random_crop 4 reflect"; those of the fields random_crop, flip and
    cutout come before; those that change pixels come first of all"""
    repeats: int = 1
    """number of copies of each image in a batch, each augmented by its own draws (Hoffer 2019: "repeated
    augmentation"); an epoch has as many steps as without, and so fewer different images"""

    def operations(self) -> list[tuple[str, ImageOperation]]:
        """The augmentation of a training image: (what asks for it, the operation), in order."""
        fields = {
            "data.random_crop": RandomCrop(self.random_crop, self.random_crop_fill)
            if self.random_crop
            else None,
            "data.flip": Flip() if self.flip else None,
            "data.cutout": Cutout(self.cutout) if self.cutout else None,
        }
        named = [parse_operation("data.augmentation", text) for text in self.augmentation]
        return [(field, operation) for field, operation in fields.items() if operation] + named

    def check(self) -> None:
        """Raises InputError if a field is invalid; the message names the first such field."""
        self._check_name()
        check_choice("data.random_crop_fill", self.random_crop_fill, RandomCrop.modes)
        check_choice("data.normalization", self.normalization, NORMALIZATIONS)
        check_choice("data.on_bad_image", self.on_bad_image, ON_BAD_IMAGE)
        for field in ("validation", "split_seed", "train_limit", "image_size", "eval_size", "memory_gb"):
            check_at_least(f"data.{field}", getattr(self, field), 0)
        check_at_least("data.repeats", self.repeats, 1)
        check_path("data.dir", self.dir)
        if len(self.classes) == 1 or len(set(self.classes)) < len(self.classes):
            raise InputError(f"`data.classes` must be two or more, each once; got {self.classes!r}")
        if self.validation >= 1:
            raise InputError(f"`data.validation` must be a share below 1; got {self.validation!r}")
        if self.split_seed >= 2**32:
            raise InputError(f"`data.split_seed` must be below 2**32; got {self.split_seed!r}")
        if self.name == "image_folder" and not self.dir:
            raise InputError("`data.dir` must name the folder of image_folder; got ''")
        self._check_files()
        self._check_augmentation()
        if self.normalization != "channel" and (self.mean or self.std):
            raise InputError(
                f"`data.mean` and `data.std` need `data.normalization` channel; got {self.normalization!r}"
            )
        if not all(0 <= value <= 1 for value in self.mean):
            raise InputError(f"`data.mean` must be in units of 0..1; got {self.mean!r}")
        if not all(value > 0 for value in self.std):
            raise InputError(f"`data.std` must be positive; got {self.std!r}")

    def idle(self) -> dict[str, str]:
        """Fields that have no effect beside the others, and what each of them is for."""
        streamed = self.streams(0)
        found = {} if self.random_crop else {"random_crop_fill": "`data.random_crop` above 0"}
        if streamed or not (self.in_files and self.storage == "auto"):
            found["memory_gb"] = "images in files that `data.storage` auto may hold in memory"
        if not self.in_files or self.storage == "memory":
            found["bad_limit"] = "images in files that are streamed"
        if streamed:
            found["on_bad_image"] = "images in files that are held in memory"
        if not self.image_size:
            found["decoder"] = "`data.image_size` above 0"
        return found

    @property
    def in_files(self) -> bool:
        """Whether each image lies in a file, or a record, of its own."""
        return self.name == "image_folder" or self.name.startswith(PREFIX)

    def streams(self, gigabytes: float) -> bool:
        """Tells whether images that would take so many GB of memory together are decoded for each batch."""
        return self.in_files and are_streamed(self.storage, self.sizes, gigabytes, self.memory_gb)

    def _check_name(self) -> None:
        if not self.name.startswith(PREFIX):
            check_choice("data.name", self.name, [*EMBEDDED, "image_folder", *PUBLISHED, f"{PREFIX}NAME"])
        elif not NAME_IN_TFDS.fullmatch(self.name):
            raise InputError(f"`data.name` must be {PREFIX}NAME or {PREFIX}NAME/CONFIG; got {self.name!r}")
        check_splits("data.splits", self.splits)
        if self.splits and not self.name.startswith(PREFIX):
            raise InputError(f"`data.splits` is for {PREFIX}NAME only; got {self.splits!r}")

    def _check_augmentation(self) -> None:
        operations = self.operations()
        for field, operation in operations:
            operation.check(field, None)
            if isinstance(operation, Flip) and self.alternate_flip:
                raise InputError(f"`data.alternate_flip` takes the place of `{field}`: set one of the two")
        mirrors = [field for field, operation in operations if isinstance(operation, Flip)]
        mirrors += [f"data.{field}" for field in ("alternate_flip", "eval_flip") if getattr(self, field)]
        mirrors += [field for field, operation in operations if isinstance(operation, Policy)]
        if self.name == "digits_rotation" and mirrors:
            raise InputError(
                f"`{mirrors[0]}` must not mirror or turn digits_rotation, whose labels are angles"
            )
        crops = any(isinstance(operation, RandomCrop) for _, operation in operations)
        if self.random_crop_fill != "zero" and crops and not self.random_crop:
            raise InputError(
                "`data.random_crop_fill` is that of `data.random_crop`; that in `data.augmentation` "
                f"has its own, as in 'random_crop 4 {self.random_crop_fill}'"
            )
        asked: dict[type, str] = {}
        for field, operation in operations:
            other = asked.setdefault(type(operation), field)
            if other != field:
                raise InputError(f"`{other}` and `{field}` ask for the same operation: keep one of them")
        if len(asked) < len(operations):
            raise InputError(f"`data.augmentation` must have each operation once; got {self.augmentation!r}")

    def _check_files(self) -> None:
        """What is said of images in files must apply, and be sizes and shares."""
        check_choice("data.storage", self.storage, STORAGES)
        check_choice("data.decoder", self.decoder, DECODERS)
        for field in ("random_resized_crop", "eval_crop", "bad_limit"):
            check_within(f"data.{field}", getattr(self, field), 0, 1)
        for field in () if self.in_files else OF_FILES:
            if (value := getattr(self, field)) != getattr(DataConfig, field):
                default = getattr(DataConfig, field)
                raise InputError(
                    f"`data.{field}` is for image_folder and {PREFIX}NAME, and must be {default} for "
                    f"{self.name}; got {value!r}"
                )
        if self.dir and self.name in EMBEDDED:
            raise InputError(
                f"`data.dir` is for data in files, and must be '' for {self.name}; got {self.dir!r}"
            )
        check_sides(self.normalization, self.sizes)
        if not self.image_size and self.streams(0):
            raise InputError("`data.image_size` must be given where images are cut anew for each batch, or "
                             "streamed; got 0")  # fmt: skip

    @property
    def sizes(self) -> Sizes:
        """What is cut out of the images of image_folder."""
        evaluate = self.eval_size or self.image_size
        return Sizes(self.image_size, self.random_resized_crop, evaluate, self.eval_crop, self.decoder)
