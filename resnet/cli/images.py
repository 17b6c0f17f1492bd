"""The options --image_shape and --classes, which describe images that are not at hand."""

from typing import TYPE_CHECKING

from absl import flags

from resnet.cli.options import FLAGS
from resnet.errors import InputError

if TYPE_CHECKING:
    from resnet.data.config import DataConfig

flags.disclaim_key_flags()


def define() -> None:
    """Defines the two flags."""
    flags.DEFINE_list(
        "image_shape", [], "Of images that are not at hand: height, width and channels, such as 224,224,3."
    )
    flags.DEFINE_integer("classes", 0, "With --image_shape: their classes; 1: a regression.", lower_bound=0)


def described() -> tuple[tuple[int, int, int], int] | None:
    """The image shape and the number of outputs of a net that the flags give; None without flags."""
    if bool(FLAGS.image_shape) != bool(FLAGS.classes):
        raise InputError(
            "--image_shape and --classes together describe images that are not at hand; got "
            f"--image_shape={','.join(FLAGS.image_shape)} --classes={FLAGS.classes}"
        )
    return (_shape(), FLAGS.classes) if FLAGS.classes else None


def shapes(data: "DataConfig") -> tuple[tuple[int, int, int], int]:
    """The image shape and the number of outputs of a net: from the flags, or without flags from the data."""
    from resnet.data.datasets import shapes_of

    if given := described():
        return given
    try:
        return shapes_of(data)
    except InputError as error:
        advised = InputError(f"{error}; or describe the images by --image_shape and --classes")
        raise advised.with_traceback(error.__traceback__) from None  # which tells the page that helps


def _shape() -> tuple[int, int, int]:
    """--image_shape as numbers."""
    sides = [int(side) if side.isdecimal() else 0 for side in FLAGS.image_shape]
    if len(sides) != 3 or not all(sides):
        raise InputError(
            "--image_shape must be height, width and channels, such as 224,224,3; got "
            f"{','.join(FLAGS.image_shape)!r}"
        )
    return sides[0], sides[1], sides[2]
