"""The net, from stem to head: a chain of residual blocks, each y = shortcut(x) + branch(x)."""

import copy
import itertools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from resnet.errors import InputError
from resnet.fields import check_types
from resnet.kernels.pooling import max_pool
from resnet.models.branches import after_sum, residual_branch
from resnet.models.config import BlockSpec, ModelConfig
from resnet.models.geometry import STEMS, block_specs, stem_layers
from resnet.models.grammar import check_net
from resnet.models.layers import HEAD_INIT, KERNEL_INITS, Dropout, check_floating
from resnet.models.scanning import BlockArrays, block_arrays, is_random, scan_blocks, scans
from resnet.models.shortcuts.table import (
    ShortcutPath,
    before_branch,
    begin_streams,
    branch_places,
    end_streams,
    make_layers,
    order_of,
    read_streams,
    starts_inside,
)


class Stem(nn.Module):
    """Convolutions, most with a norm and an activation behind, then the max-pool if there is one."""

    config: ModelConfig
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool) -> Float[Array, "b y x o"]:
        layers = make_layers(self, train)
        for layer in stem_layers(self.config):
            x = layers.conv(x, layer.name, layer.outputs, layer.size, layer.stride)
            x = layers.apply(order_of(self.config).of_stem(layer.last), x)
        stem = STEMS[self.config.stem]
        x = max_pool(x, stem.border) if stem.max_pool else x
        return begin_streams(layers, x)


class Block(nn.Module):
    """A residual block: y = shortcut(x) + branch(x), or as the shortcut has it, then what follows the sum."""

    config: ModelConfig
    spec: BlockSpec
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w i"], arrays: BlockArrays, train: bool
    ) -> Float[Array, "b y x o"]:
        config, spec, order = self.config, self.spec, order_of(self.config)
        layers = make_layers(self, train)
        given, mixture = read_streams(self, x, train, arrays.number)
        start = arrays.scaled(layers.apply(before_branch(config, spec), given))
        branch_key, survival_key, shortcut_key = arrays.keys()
        f = residual_branch(layers, order, branch_places(config, spec), start, branch_key)
        f = arrays.survive(f, survival_key, config.stochastic_depth_each)
        shortcut = ShortcutPath(config, spec, self.axis_name, name="shortcut")
        begin = start if starts_inside(config, spec) else x
        y = shortcut(begin, f, train, shortcut_key, arrays.number, mixture)
        return after_sum(layers, order, y, adds_x=not spec.changes_shape)


class Stage(nn.Module):
    """The blocks between two changes of resolution; where they are scanned, all but the first run as one."""

    config: ModelConfig
    specs: tuple[BlockSpec, ...]
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w i"], arrays: list[BlockArrays], train: bool
    ) -> tuple[Float[Array, "b y x o"], dict[str, Array]]:
        config, names = self.config, [f"block{spec.block}" for spec in self.specs]
        block_class = nn.remat(Block, static_argnums=(3,)) if config.remat else Block
        # Parameters are always created block by block, so that both forms share their paths and values.
        shown = self.is_mutable_collection("intermediates")  # of each block, which a scan would drop
        scanned = scans(config, len(names)) and not self.is_initializing() and not shown
        alone = 1 if scanned else len(names)
        features = {}
        for name, spec, own in zip(names[:alone], self.specs[:alone], arrays[:alone], strict=True):
            x = block_class(config, spec, self.axis_name, name=name)(x, own, train)
            features[name] = x
        if scanned:
            block = Block(config, self.specs[1], self.axis_name, parent=None)
            x, others = scan_blocks(self, block, names[1:], arrays[1:], x, train)
            features |= others
        return x, features


class Head(nn.Module):
    """The last norm and activation of pre-activation nets, global average pooling, one linear layer."""

    config: ModelConfig
    num_outputs: int
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], train: bool, key: Array | None
    ) -> tuple[Float[Array, "b n"], Float[Array, "b p"]]:
        config, order = self.config, order_of(self.config)
        layers = make_layers(self, train, numbered=False)
        pooled = layers.apply(order.head, end_streams(layers, x)).mean((1, 2), dtype=jnp.float32)
        y = Dropout(config.head_dropout)(layers.apply(order.pooled, pooled), key)
        draw = KERNEL_INITS["zero"] if config.zero_head else HEAD_INIT
        dense = nn.Dense(self.num_outputs, kernel_init=lambda key, shape, _: draw(key, shape), name="dense")
        return dense(y), pooled


class ResNet(nn.Module):
    """A residual net of the grammar. images -> (logits, features).

    images: normalised, float. logits: float32, before the output function. features: the output of
    `stem`, of each `stageS/blockB`, and `pooled`, by name. `axis_name`: the mapped axis of devices,
    over which batch statistics are averaged. While it is initialised only shapes count: its norms return
    what they are given. Raises InputError for images of whole numbers, and for `bn_fixed` within another
    module, whose paths are longer.
    """

    config: ModelConfig
    num_outputs: int
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w c"], train: bool = False
    ) -> tuple[Float[Array, "b n"], dict[str, Array]]:
        config, specs = self.config, block_specs(self.config)
        check_floating(images)
        if config.bn_fixed and self.path:
            raise InputError(
                "`model.bn_fixed` must be '' in a net within another module, whose norms have other paths; "
                f"got {config.bn_fixed!r} at {'/'.join(self.path)}"
            )
        key = self.make_rng("dropout") if train and is_random(config) else None
        arrays = [block_arrays(config, spec, key) for spec in specs]
        x = Stem(config, self.axis_name, name="stem")(images.astype(config.dtype), train)
        features = {"stem": x}
        for stage, group in itertools.groupby(specs, lambda spec: spec.stage):
            blocks, name = tuple(group), f"stage{stage}"
            own = arrays[blocks[0].index : blocks[-1].index + 1]
            x, outputs = Stage(config, blocks, self.axis_name, name=name)(x, own, train)
            features |= {f"{name}/{block}": y for block, y in outputs.items()}
        head_key = None if key is None else jax.random.fold_in(key, len(specs))
        head = Head(config, self.num_outputs, self.axis_name, name="head")
        logits, features["pooled"] = head(x, train, head_key)
        return logits, features


def make_model(config: ModelConfig, num_outputs: int) -> ResNet:
    """The net of a config as it is now.

    Raises InputError for a field of another type, and for a net that the grammar does not allow.
    """
    check_types(config)
    check_net(config)
    return ResNet(copy.copy(config), num_outputs)
