"""Shortcuts: how a block's input x and its residual branch F(x) are joined. Adding one is done here alone.

Where a block changes the shape, a transition first gives x the shape of F(x).
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from resnet.errors import InputError
from resnet.models.branches import BRANCHES, ORDERS, Order, Place, places
from resnet.models.config import BlockSpec, ModelConfig
from resnet.models.geometry import blocks_per_stage
from resnet.models.layers import ACTIVATION, BIAS, Dropout, Layers, average_pool

PAD_MODES = ("subsample", "average")
PAD_SIDES = ("end", "both")


@dataclasses.dataclass(frozen=True)
class Junction:
    """Where x and F(x) of a block meet: what a shortcut is written with beside the two."""

    layers: Layers
    block: BlockSpec
    inputs: Array
    """The block's input, before a transition."""
    key: Array | None
    """Of random draws; None in evaluation."""

    @property
    def config(self) -> ModelConfig:
        """Of the net."""
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
class Shortcut:
    """merge(at, x, F(x)) gives the sum; the rest says what the merge allows, and what it asks of the net.

    `is_sum`: F(x) is added, so stochastic depth may drop it. `changes_shape`: takes the block's input itself,
    without a transition. `draws`: uses random numbers in training. `norm_free`: defined without
    normalisation. `needs`: fields that its definition sets. `check` raises InputError for other nets that it
    is not defined for. `order` replaces the order of activation, `place` that of an operation of the branch;
    `input_scale` is a factor on what enters the branch.
    """

    merge: Callable[[Junction, Array, Array], Array]
    is_sum: bool = True
    changes_shape: bool = False
    draws: bool = False
    norm_free: bool = False
    needs: Mapping[str, object] = dataclasses.field(default_factory=dict)
    check: Callable[[ModelConfig], None] = lambda config: None
    order: Order | None = None
    place: Callable[[ModelConfig, Place], Place] = lambda config, place: place
    input_scale: Callable[[ModelConfig, BlockSpec], float] | None = None


# Transitions: x in the shape of F(x), where the two differ.


def pad(at: Junction, x: Array) -> Array:
    """Option A (He 2015): fewer pixels, then channels of zeros; no parameters."""
    stride = at.block.stride
    x = average_pool(x, stride) if at.config.pad_mode == "average" else x[:, ::stride, ::stride]
    zeros = at.block.outputs - at.block.inputs
    before = zeros // 2 if at.config.pad_side == "both" else 0
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (before, zeros - before)))


def project(at: Junction, x: Array) -> Array:
    """Options B and C: a matrix on the channels of every stride-th pixel."""
    return _project(at, x, at.block.stride)


def average_project(at: Junction, x: Array) -> Array:
    """ResNet-D (He 2018): average pooling, then a matrix on the channels."""
    return _project(at, average_pool(x, at.block.stride), 1)


def _project(at: Junction, x: Array, stride: int) -> Array:
    """Pre-activation nets put no norm behind."""
    x = at.layers.conv(x, "projection", at.block.outputs, 1, stride)
    return x if order_of(at.config).preactivation else at.layers.norm(x, "norm")


TRANSITIONS = {"pad": pad, "projection": project, "average_projection": average_project}


# Shortcuts: x and F(x) joined.


def none(at, x, branch):
    """F(x): a plain net."""
    return branch


def identity(at, x, branch):
    """x + F(x) (He 2015)."""
    return x + branch


def project_everywhere(at, x, branch):
    """BN(W x) + F(x) in every block: option C, and the 1x1 convolution of He 2016, Table 1."""
    return project(at, x) + branch


def constant_scaling(at, x, branch):
    """a x + b F(x) (He 2016, Table 1)."""
    return at.config.shortcut_scale * x + at.config.branch_scale * branch


def gate(at: Junction) -> Array:
    """g = sigmoid(W x + c), for each pixel and channel, strided where the block is."""
    config, block, normed = at.config, at.block, at.config.gate_norm
    x = at.layers.conv(
        at.inputs, "gate", block.outputs, 1, block.stride, kernel_init=config.gate_init,
        bias=not normed, bias_start=0.0 if normed else config.gate_bias,
    )  # fmt: skip
    if normed:
        x = at.layers.norm(x, "gate_norm", bias_start=config.gate_bias)
    return at.layers.show("opening", jax.nn.sigmoid(x))


def exclusive_gating(at, x, branch):
    """(1 - g) x + g F(x) (He 2016, Table 1)."""
    g = gate(at)
    return (1 - g) * x + g * branch


def shortcut_only_gating(at, x, branch):
    """(1 - g) x + F(x) (He 2016, Table 1)."""
    return (1 - gate(at)) * x + branch


def highway(at, x, branch):
    """t F(x) + (1 - t) x, t = sigmoid(BN(conv(relu(BN(conv(x)))))).

    Source: github flukeskywalker/highway-resnet-comparison.
    """
    hidden = jax.nn.relu(at.normed_conv(at.inputs, "gate1", 3, at.block.stride))
    logits = at.normed_conv(hidden, "gate2", 3, 1, at.config.gate_bias)
    t = at.layers.show("opening", jax.nn.sigmoid(logits))
    return t * branch + (1 - t) * x


def dropout(at, x, branch):
    """dropout(x) + F(x) (He 2016, Table 1)."""
    return Dropout(at.config.shortcut_dropout, at.config.dropout_kind)(x, at.key) + branch


def scaled_branch(at, x, branch):
    """x + alpha F(x), alpha learned (ReZero, Bachlechner 2020; SkipInit, De 2020)."""
    start = 0.0 if at.config.alpha_init == "zero" else sum(blocks_per_stage(at.config)) ** -0.5
    return x + at.layers.scalar("alpha", start, branch) * branch


def fixup(at, x, branch):
    """x + scale F(x) + bias (Zhang 2019)."""
    return x + at.layers.scalar("scale", 1.0, branch) * branch + at.layers.scalar("bias", 0.0, branch)


# A learned scalar before each convolution and activation; the one after the sum is the merge's.
FIXUP_ORDER = dataclasses.replace(
    ORDERS["postactivation"],
    before=(BIAS,), between=(BIAS, ACTIVATION, BIAS), stem=(BIAS, ACTIVATION), pooled=(BIAS,),
)  # fmt: skip


def fixup_place(config: ModelConfig, place: Place) -> Place:
    """The last convolution of a branch starts at 0, the others smaller with the net's depth."""
    if place.last:
        return dataclasses.replace(place, kernel_init="zero", init_scale=1.0)
    blocks, m = sum(blocks_per_stage(config)), len(BRANCHES[config.branch].operations)
    return dataclasses.replace(place, init_scale=blocks ** (-1 / (2 * m - 2)))


def check_fixup(config: ModelConfig) -> None:
    """Raises InputError for nets without Fixup's places of scalars, or its scale."""
    if config.order != "postactivation":
        raise InputError("shortcut 'fixup' is defined for model.order=postactivation; "
                         f"got {config.order!r}")  # fmt: skip
    if len(BRANCHES[config.branch].operations) < 2:
        raise InputError("shortcut 'fixup' scales the branch by L^(-1/(2m-2)), which needs m >= 2 "
                         "convolutions; set model.branch=basic or bottleneck")  # fmt: skip


NF_ALPHA = 0.2  # Brock 2021, "Characterizing signal propagation", section 3.


def normalizer_free(at, x, branch):
    """x + 0.2 gain F(beta act(x)), gain learned from 0 (Brock 2021)."""
    return x + NF_ALPHA * at.layers.scalar("gain", 0.0, branch) * branch


def nf_beta(config: ModelConfig, block: BlockSpec) -> float:
    """1 over the expected deviation of x: each stage resets its variance to 1, each block adds 0.2^2."""
    if block.block == 1:
        previous = blocks_per_stage(config)[block.stage - 2] if block.stage > 1 else 0
        return (1 + previous * NF_ALPHA**2) ** -0.5
    return (1 + (block.block - 1) * NF_ALPHA**2) ** -0.5


def check_normalizer_free(config: ModelConfig) -> None:
    """Raises InputError unless activations come first and kernels are standardised."""
    if config.order != "preactivation" or config.weight_standardization != "scaled":
        raise InputError(
            "shortcut 'normalizer_free' needs model.order=preactivation and model.weight_standardization="
            f"scaled; got {config.order!r} and {config.weight_standardization!r}"
        )


UNNORMED = {"norm": "none", "ghost_batch": 0}
SHORTCUTS = {
    "none": Shortcut(none, changes_shape=True, is_sum=False),
    "identity": Shortcut(identity),
    "projection": Shortcut(project_everywhere, changes_shape=True),
    "constant_scaling": Shortcut(constant_scaling),
    "exclusive_gating": Shortcut(exclusive_gating, is_sum=False),
    "shortcut_only_gating": Shortcut(shortcut_only_gating),
    "highway": Shortcut(highway, is_sum=False),
    "dropout": Shortcut(dropout, draws=True),
    "rezero": Shortcut(scaled_branch),
    "skipinit": Shortcut(scaled_branch, norm_free=True, needs=UNNORMED),
    "fixup": Shortcut(
        fixup, norm_free=True, needs=UNNORMED | {"zero_head": True}, check=check_fixup,
        order=FIXUP_ORDER, place=fixup_place,
    ),
    "normalizer_free": Shortcut(
        normalizer_free, norm_free=True, needs=UNNORMED | {"weight_standardization": "scaled"},
        check=check_normalizer_free, input_scale=nf_beta,
    ),
}  # fmt: skip


def order_of(config: ModelConfig) -> Order:
    """The net's order of activation, as its shortcut leaves it."""
    return SHORTCUTS[config.shortcut].order or ORDERS[config.order]


def branch_places(config: ModelConfig, block: BlockSpec) -> list[Place]:
    """The places of the branch's operations, as the shortcut leaves them."""
    return [SHORTCUTS[config.shortcut].place(config, place) for place in places(config, block)]


def make_layers(module: nn.Module, train: bool, numbered: bool = True) -> Layers:
    """`Layers` for a module of a net: where neither norms nor scalars bring a bias, convolutions have one."""
    config = module.config  # type: ignore[attr-defined]
    bias = config.norm == "none" and BIAS not in order_of(config).between
    return Layers(module, train, bias, numbered)


class ShortcutPath(nn.Module):
    """The shortcut of one block: x through the transition where the shape changes, then joined with F(x)."""

    config: ModelConfig
    block: BlockSpec
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w i"], branch: Float[Array, "b y x o"], train: bool, key: Array | None
    ) -> Float[Array, "b y x o"]:
        shortcut = SHORTCUTS[self.config.shortcut]
        at = Junction(make_layers(self, train), self.block, x, key)
        if self.block.changes_shape and not shortcut.changes_shape:
            x = TRANSITIONS[self.config.transition](at, x)
        return shortcut.merge(at, x, branch)


def starts_inside(config: ModelConfig, block: BlockSpec) -> bool:
    """Whether the shortcut starts behind what stands before the branch's first operation.

    So it does in the first block of a pre-activation net, which follows a bare convolution (He 2016,
    appendix), where a matrix changes the shape (resnet-1k-layers), and where Fixup's does. Zero
    padding carries x itself.
    """
    order = order_of(config)
    if not order.preactivation:
        return bool(order.before) and block.changes_shape
    by_matrix = config.transition != "pad" or config.shortcut == "projection"
    return block.index == 0 or (block.changes_shape and by_matrix)
