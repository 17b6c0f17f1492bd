"""Stems: the layers before the first residual block."""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from resnet.kernels.pooling import max_pool
from resnet.models.branches import ORDERS
from resnet.models.geometry import Convolution, has_bias, stem_width
from resnet.models.layers import Conv, activate, fixup_bias
from resnet.models.norms import normalize

if TYPE_CHECKING:
    from resnet.models.grammar import ModelConfig


@dataclasses.dataclass(frozen=True)
class StemSpec:
    """(size, stride, width over the stem's) of each convolution; then a 3x3/2 max-pool or not.

    `border` surrounds the image in the max-pool.
    """

    convolutions: tuple[tuple[int, int, float], ...]
    max_pool: bool
    border: float = -np.inf


STEMS = {
    "cifar": StemSpec(((3, 1, 1),), max_pool=False),
    "imagenet": StemSpec(((7, 2, 1),), max_pool=True),
    # BiT (Kolesnikov 2020) surrounds what goes into its max-pool with zeros.
    "bit": StemSpec(((7, 2, 1),), max_pool=True, border=0.0),
    # Three 3x3 instead of the 7x7: ResNet-C and -D (He 2018).
    "deep": StemSpec(((3, 2, 0.5), (3, 1, 0.5), (3, 1, 1)), max_pool=True),
    # A strided convolution instead of the max-pool as well: ResNet-RS (Bello 2021).
    "deep_strided": StemSpec(((3, 2, 0.5), (3, 1, 0.5), (3, 1, 1), (3, 2, 1)), max_pool=False),
}


def stem_convolutions(config: "ModelConfig", channels: int) -> tuple[Convolution, ...]:
    """The stem's convolutions for images of `channels` channels."""
    specs, inputs, width = [], channels, stem_width(config)
    for i, (size, stride, share) in enumerate(STEMS[config.stem].convolutions, 1):
        outputs = max(1, round(width * share))
        specs.append(Convolution(f"conv{i}", size, inputs, outputs, stride, bias=has_bias(config)))
        inputs = outputs
    return tuple(specs)


def stem_norms(config: "ModelConfig") -> int:
    """How many of the convolutions a norm follows: in pre-activation nets the last has none."""
    return len(STEMS[config.stem].convolutions) - ORDERS[config.order].preactivation


class Stem(nn.Module):
    """Convolutions, each with norm and activation, then the max-pool if there is one.

    In pre-activation nets the last convolution is bare: the first block begins with its activation.
    """

    config: "ModelConfig"
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b y x o"]:
        config = self.config
        for i, spec in enumerate(stem_convolutions(config, x.shape[-1]), 1):
            x = Conv(spec, config, name=spec.name)(x)
            if i <= stem_norms(config):
                x = normalize(config, x, train, name=f"norm{i}", axis_name=self.axis_name)
                x = activate(config, config.activation, fixup_bias(self, config, x, f"bias{i}"))
        stem = STEMS[config.stem]
        return max_pool(x, stem.border) if stem.max_pool else x
