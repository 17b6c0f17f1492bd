"""What a shortcut is: a function that joins x and F(x) at a `Junction`, and what it asks of the net."""

import dataclasses
from collections.abc import Callable, Mapping

from jaxtyping import Array, Float

from resnet.models.branches import Order, Place
from resnet.models.config import BlockSpec, ModelConfig
from resnet.models.layers import Layers

Carried = Float[Array, "b h w _"]
"""n streams, one behind another in the channels."""


@dataclasses.dataclass(frozen=True)
class Mixture:
    """What a block does with n streams H_i at each pixel; b, h and w are 1 where all pixels share it.

    Its branch F is applied to sum_i read_i H_i; then H_j becomes sum_i mix_ij H_i + write_j F, or without
    `mix` H_j + write_j F.
    """

    read: Float[Array, "#b #h #w n"]
    mix: Float[Array, "#b #h #w n n"] | None
    write: Float[Array, "#b #h #w n"]


@dataclasses.dataclass(frozen=True)
class Junction:
    """Where x and F(x) of a block meet: what a shortcut is written with beside the two."""

    layers: Layers
    block: BlockSpec
    inputs: Array
    """The block's input, before a transition."""
    key: Array | None
    """Of random draws; None in evaluation."""
    number: Float[Array, "..."] | None = None
    """What the shortcut's `number` gives for this block."""
    mixture: Mixture | None = None
    """Of the streams, where they are mixed."""

    @property
    def config(self) -> ModelConfig:
        """The config of the net."""
        return self.layers.config

    def normed_conv(self, x: Array, name: str, size: int, stride: int, bias_start: float = 0.0) -> Array:
        """A gate's convolution, then the net's norm; the last of the two starts at `bias_start`."""
        conv_start = bias_start if self.config.norm == "none" else 0.0
        x = self.layers.conv(
            x, name, self.block.outputs, size, stride, bias_start=conv_start,
            kernel_init=self.config.gate_init,
        )  # fmt: skip
        return self.layers.norm(x, f"{name}_norm", bias_start=bias_start)


@dataclasses.dataclass(frozen=True)
class Streams:
    """Several streams of x, which go from block to block in place of one."""

    read: Callable[[Junction, Carried], tuple[Array, Mixture | None]]
    """read(at, carried) gives what a branch is applied to, and the mixture for `merge`."""
    begin: Callable[[Array, int], Carried]
    """begin(x, n) makes n streams of what leaves the stem."""
    end: Callable[[Layers, Carried, int], Array]
    """end(layers, carried, n) gives what the head is applied to."""
    count: Callable[[ModelConfig], int] = lambda config: config.streams
    """How many there are."""
    shared: bool = False
    """Whether the channels of stem and blocks are divided among them; else each has all."""
    scan: Callable | None = None
    """What takes the place of `jax.lax.scan` where blocks are recomputed in the backward pass."""


@dataclasses.dataclass(frozen=True)
class Shortcut:
    """merge(at, x, F(x)) gives the sum; the rest says what the merge allows, and what it asks of the net."""

    merge: Callable[[Junction, Array, Array], Array]
    is_sum: bool = True
    """Whether F(x) is added, so that stochastic depth may drop it."""
    changes_shape: bool = False
    """Whether `merge` takes the block's input itself, without a transition."""
    draws: bool = False
    """Whether it uses random numbers in training."""
    norm_free: bool = False
    """Whether it is defined without normalisation."""
    by_pixel: bool = False
    """Whether, in evaluation, each pixel of the sum is a linear map of that pixel of x and of F(x), plus a
    constant, so that `folding.py` can remove it."""
    fields: tuple[str, ...] = ()
    """Fields of the config that it reads, and others may not."""
    needs: Mapping[str, object] = dataclasses.field(default_factory=dict)
    """Fields that its definition sets."""
    zero_kernels: bool = False
    """Whether some of its kernels, or of the branch's, start at 0."""
    check: Callable[[ModelConfig], None] = lambda config: None
    """Raises InputError for other nets that it is not defined for."""
    order: Order | None = None
    """What replaces the order of activation."""
    place: Callable[[ModelConfig, Place], Place] = lambda config, place: place
    """What replaces an operation's place in the branch."""
    input_scale: Callable[[ModelConfig, BlockSpec], float] | None = None
    """A factor on what enters the branch."""
    number: Callable[[ModelConfig, BlockSpec], float] | None = None
    """Of a block, what `merge` reads as `at.number`; blocks scanned as one differ in nothing else."""
    streams: Streams | None = None
    """What the net carries from block to block, if that is more than x; `merge` is then given them."""


UNNORMED = {"norm": "none", "ghost_batch": 0}
"""What a shortcut that is defined without normalisation needs."""
