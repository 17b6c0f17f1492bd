"""A net with its weights, as a user of Flax takes it: module, variables, and what they say of images."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Float, Num, UInt8

from resnet.data.augment import normalize
from resnet.data.files.crops import Cut, Fitted, Middle
from resnet.data.files.decoders import PILLOW, check_decoder_installed, decode_cut
from resnet.data.images import decode_image
from resnet.errors import InputError
from resnet.files import local_path
from resnet.models.geometry import block_specs
from resnet.models.resnet import ResNet
from resnet.paths import count_elements
from resnet.runs.task import Task
from resnet.training.evaluation import make_predict

BATCH = 128  # most images that logits are computed of at a time


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Net:
    """A net with weights.

    Its methods take images of the task's shape: uint8 from 0 to 255 or float from 0 to 1, many
    [n, h, w, c] or one [h, w, c], and normalise them as in training.
    """

    model: ResNet
    """The Flax module: `model.apply(variables, normalised images)` returns (logits, features)."""
    variables: dict[str, Any]
    """{"params", "batch_stats"}."""
    task: Task
    """Image shape, class names, and the normalisation: mean and std of pixels from 0 to 255."""
    crop: float = 0.0
    """Share of a picture's shorter side that `read` keeps, about the centre; 0: all."""
    size: int = 0
    """Side of the pictures that `read` gives, which images may have too; 0: that of the task's images."""
    flip: bool = False
    """Whether logits are the mean of those of each image and of its mirror image, as in evaluation."""
    decoder: str = PILLOW
    """What `read` decodes square RGB pictures with: pillow, or simplejpeg, which gives other pixels."""

    def __repr__(self) -> str:
        parameters = count_elements(self.variables["params"])
        return (
            f"<Net of {parameters:,} parameters, from images {self.task.image_shape} to "
            f"{self.task.num_outputs} outputs>"
        )

    def __getstate__(self) -> dict[str, Any]:
        # Compiled programs cannot be pickled; they are made again when they are needed.
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    @functools.cached_property
    def _predict(self):
        return make_predict(model=self.model, task=self.task, flip=self.flip)

    @functools.cached_property
    def _features(self):
        def features(variables, images):
            images = normalize(images, self.task.mean, self.task.std)
            return self.model.apply(variables, images, train=False)[1]

        return jax.jit(features)

    def logits(self, images: Any) -> Float[np.ndarray, "*n outputs"]:
        """Logits of images; of one image, those alone.

        At most BATCH images are computed at a time, and of more the last part is filled up: one program
        serves all parts. Every smaller number of images is compiled anew.
        """
        batch, one = self._checked(images)
        size = max(1, min(BATCH, len(batch)))
        parts = []
        for start in range(0, max(1, len(batch)), size):
            part = batch[start : start + size]
            filled = np.pad(part, [(0, size - len(part)), (0, 0), (0, 0), (0, 0)])
            parts.append(np.asarray(self._predict(self.variables, filled)))
        logits = np.concatenate(parts)[: len(batch)]
        return logits[0] if one else logits

    def features(self, images: Any) -> dict[str, Float[np.ndarray, "..."]]:
        """Returns the outputs of `stem`, each `stageS/blockB` and the pooling (`pooled`), in this order.

        All images are computed at once, and must fit into memory with their outputs: give many in parts of
        one size, as each number of images is compiled anew.
        """
        batch, one = self._checked(images)
        found = jax.device_get(self._features(self.variables, batch))
        blocks = (f"stage{spec.stage}/block{spec.block}" for spec in block_specs(self.model.config))
        return {name: found[name][0] if one else found[name] for name in ("stem", *blocks, "pooled")}

    def normalized(self, images: Any) -> Float[jax.Array, "n h w c"]:
        """The images as `model.apply` takes them: one image is a batch of one.

        Within `jit` and `grad` the values of float images are not checked.
        """
        batch, _ = self._checked(images)
        return normalize(batch, self.task.mean, self.task.std)

    def read(self, file: str | Path) -> UInt8[np.ndarray, "h w c"]:
        """A picture (JPEG, PNG) in the net's shape, decoded, resized and cut as in its evaluation."""
        path, (height, width, channels) = local_path(file), self.evaluated_shape
        cut: Cut = Middle(height, self.crop) if self.crop else Fitted(height)
        square = width == height
        if square and channels == 3:  # as images of files are trained on
            check_decoder_installed(self.decoder)
            return decode_cut(path, str(path), cut, self.decoder)
        image = decode_image(
            path, str(path), channels=channels, cut=lambda image: cut(image, image.size) if square else image
        )
        if image.shape[:2] != (height, width):
            raise InputError(
                f"{path} is {image.shape[1]}x{image.shape[0]} pixels, but the net takes "
                f"{width}x{height}: bring it to that size first"
            )
        return image

    @property
    def evaluated_shape(self) -> tuple[int, ...]:
        """Height, width and channels of the images that the net is evaluated on."""
        shape = tuple(self.task.image_shape)
        return (self.size, self.size, shape[-1]) if self.size else shape

    def _checked(self, images: Any) -> tuple[Num[np.ndarray | jax.Array, "n h w c"], bool]:
        """(a batch of pixels from 0 to 255, whether it was one image); InputError for what is none."""
        traced, shape = isinstance(images, Tracer), self.evaluated_shape
        images = images if traced else np.asarray(images)
        floats = jnp.issubdtype(images.dtype, jnp.floating)
        shaped = images.ndim in (3, 4) and images.shape[-3:] in (shape, tuple(self.task.image_shape))
        if not shaped or not (floats or images.dtype == np.uint8):
            raise InputError(
                f"images must be uint8 or float, of shape ({', '.join(map(str, shape))}) or (n, the same); "
                f"got {images.dtype} of shape {images.shape}"
            )
        if floats and not traced and not ((images >= 0) & (images <= 1)).all():
            raise InputError(
                "float images must be from 0 to 1, that is pixels over 255; "
                f"got values from {images.min():.9g} to {images.max():.9g}"
            )
        pixels = images.astype(np.float32) * 255 if floats else images
        return pixels.reshape(-1, *images.shape[-3:]), images.ndim == 3
