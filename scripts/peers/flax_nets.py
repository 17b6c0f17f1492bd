"""Post-activation ResNets of stock Flax, nn.Conv and nn.BatchNorm: what ours is measured against.

Modules have the names of ours, so that variables fit both.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float


@dataclasses.dataclass(frozen=True)
class Shape:
    """What sets one net apart from another."""

    blocks: tuple[int, ...]
    widths: tuple[int, ...]
    """Channels of the 3x3 convolutions of each stage."""
    bottleneck: bool = False
    """1x1, 3x3 and 1x1 to four times as many channels, projections; else 3x3 and 3x3, zero padding."""
    imagenet: bool = False
    """A stem of 7x7 and max-pool; else of 3x3."""
    dtype: str = "float32"
    """What convolutions and norms compute in."""
    axis: str | None = None
    """Mapped axis of devices, over which batch statistics are averaged."""


SHAPES = {
    "resnet8": Shape((1, 1, 1), (16, 32, 64)),
    "resnet20": Shape((3, 3, 3), (16, 32, 64)),
    "resnet50": Shape((3, 4, 6, 3), (64, 128, 256, 512), bottleneck=True, imagenet=True),
}


def normed_convolution(
    x: Array, train: bool, axis: str | None, layer: tuple[int, int, int], names: tuple[str, str]
) -> Array:
    """Convolution and batch norm as submodules, by `names`, of the module that calls; in the type of x.

    A layer is its width, the side of its kernel and its stride.
    """
    width, size, stride = layer
    pad = (size - 1) // 2
    x = nn.Conv(width, (size, size), stride, pad, use_bias=False, dtype=x.dtype, name=names[0])(x)
    norm = nn.BatchNorm(not train, momentum=0.9, dtype=x.dtype, axis_name=axis, name=names[1])
    return norm(x)


class Stem(nn.Module):
    """From images to the first stage."""

    shape: Shape

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b y x o"]:
        layer = (self.shape.widths[0], *((7, 2) if self.shape.imagenet else (3, 1)))
        x = normed_convolution(x, train, self.shape.axis, layer, ("conv1", "norm1"))
        x = nn.relu(x)
        if not self.shape.imagenet:
            return x
        return nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))  # type: ignore[arg-type]


class Shortcut(nn.Module):
    """x in the shape of the branch."""

    shape: Shape
    width: int
    stride: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b y x o"]:
        if self.width == x.shape[-1]:
            return x
        if self.shape.bottleneck:
            layer = (self.width, 1, self.stride)
            return normed_convolution(x, train, self.shape.axis, layer, ("projection", "norm"))
        side = (self.width - x.shape[-1]) // 2
        return jnp.pad(x[:, :: self.stride, :: self.stride], ((0, 0), (0, 0), (0, 0), (side, side)))


class Block(nn.Module):
    """relu(x + F(x))."""

    shape: Shape
    width: int
    stride: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b y x o"]:
        layers = [(self.width, 3, self.stride), (self.width, 3, 1)]
        if self.shape.bottleneck:
            layers = [(self.width, 1, 1), (self.width, 3, self.stride), (4 * self.width, 1, 1)]
        y = x
        for i, layer in enumerate(layers, 1):
            y = nn.relu(y) if i > 1 else y
            y = normed_convolution(y, train, self.shape.axis, layer, (f"conv{i}", f"norm{i}"))
        shortcut = Shortcut(self.shape, y.shape[-1], self.stride, name="shortcut")
        return nn.relu(shortcut(x, train) + y)


class Stage(nn.Module):
    """Blocks of one width."""

    shape: Shape
    index: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b y x o"]:
        for i in range(self.shape.blocks[self.index]):
            stride = 2 if self.index and not i else 1
            block = Block(self.shape, self.shape.widths[self.index], stride, name=f"block{i + 1}")
            x = block(x, train)
        return x


class Head(nn.Module):
    """Global average pooling and a linear layer."""

    num_outputs: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b n"]:
        return nn.Dense(self.num_outputs, name="dense")(x.mean((1, 2)).astype(jnp.float32))


class StockResNet(nn.Module):
    """images, normalised -> logits."""

    shape: Shape
    num_outputs: int

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b n"]:
        x = Stem(self.shape, name="stem")(x.astype(self.shape.dtype), train)
        for i in range(len(self.shape.blocks)):
            x = Stage(self.shape, i, name=f"stage{i + 1}")(x, train)
        return Head(self.num_outputs, name="head")(x)


def init(net: StockResNet, side: int) -> Any:
    """Random {"params", "batch_stats"}."""
    return net.lazy_init(
        jax.random.key(0), jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32), train=False
    )


@dataclasses.dataclass(frozen=True)
class InOurStep:
    """A stock net in place of ours in a training step of ours."""

    net: StockResNet
    config: Any
    """That of our net, which says what the outputs are."""

    def clone(self, axis_name: str | None) -> "InOurStep":
        """The same, with batch statistics averaged over an axis of devices."""
        shape = dataclasses.replace(self.net.shape, axis=axis_name)
        return dataclasses.replace(self, net=self.net.clone(shape=shape))

    def init(self, key: Array, images: Array, *, train: bool) -> Any:
        """Initial variables."""
        return self.net.init(key, images, train=train)

    def apply(self, variables: Any, images: Array, *, train: bool, **options: Any) -> Any:
        """((logits, no features), updated statistics), as ours returns them in training."""
        logits, updated = self.net.apply(variables, images, train=train, **options)
        return (logits, {}), updated
