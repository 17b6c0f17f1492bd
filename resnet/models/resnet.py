"""The net, from stem to head: a chain of residual blocks."""

import itertools
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from resnet.models.branches import ORDERS, Branch
from resnet.models.geometry import BlockSpec, block_specs, shares_start
from resnet.models.layers import HEAD_INIT, KERNEL_INITS, Dropout, activate, fixup_bias
from resnet.models.norms import normalize
from resnet.models.scanning import STACKED, scans, stack_trees, unstack_trees
from resnet.models.shortcuts import BlockArrays, ShortcutPath, block_arrays, is_random
from resnet.models.stems import Stem

if TYPE_CHECKING:
    from resnet.models.grammar import ModelConfig


class Block(nn.Module):
    """after_sum(shortcut(x, F(x))): one residual block."""

    config: "ModelConfig"
    spec: BlockSpec
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"], own: BlockArrays, train: bool) -> Float[Array, "b y x o"]:
        config, spec = self.config, self.spec
        branch = Branch(self, config, spec, train, self.axis_name)
        start = branch.start(x)
        if "input_scale" in own:
            start = start * own["input_scale"].astype(x.dtype)
        branch_key, survival_key, shortcut_key = (
            jax.random.split(own["key"], 3) if "key" in own else (None, None, None)
        )
        f = branch.finish(start, branch_key)
        if config.stochastic_depth:
            f = survive(f, own["survival"].astype(f.dtype), survival_key)
        # For those who take a net apart (chain.py): F(x) can be read, and another put in its place.
        self.sow("intermediates", "branch", f)
        f = own.get("branch", f)
        path = ShortcutPath(config, spec, train, self.axis_name, name="shortcut")
        shared = shares_start(config, spec, ORDERS[config.order].preactivation)
        return branch.after_sum(path(start if shared else x, f, shortcut_key))


def survive(branch: Array, survival: Array, key: Array | None) -> Array:
    """Stochastic depth (Huang 2016): b F(x) in training, b ~ Bernoulli(survival); else survival F(x)."""
    if key is None:
        return survival * branch
    return jnp.where(jax.random.bernoulli(key, survival.astype(jnp.float32)), branch, 0)


class Stage(nn.Module):
    """The blocks between two changes of resolution; where they are scanned, all but the first run as one."""

    config: "ModelConfig"
    specs: tuple[BlockSpec, ...]
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w i"], own: list[BlockArrays], train: bool
    ) -> tuple[Float[Array, "b y x o"], dict[str, Array]]:
        block_class = nn.remat(Block, static_argnums=(3,)) if self.config.remat else Block
        # Parameters are always created block by block, so that both forms share their paths and values.
        scanned = scans(self.config, len(self.specs)) and not self.is_initializing()
        features = {}
        for spec, arrays in zip(self.specs[:1] if scanned else self.specs, own, strict=not scanned):
            name = f"block{spec.block}"
            x = block_class(self.config, spec, self.axis_name, name=name)(x, arrays, train)
            features[name] = x
        if scanned:
            x, outputs = self._scan(x, own[1:], train)
            features |= {f"block{spec.block}": y for spec, y in zip(self.specs[1:], outputs, strict=True)}
        return x, features

    def _scan(self, x: Array, own: list[BlockArrays], train: bool) -> tuple[Array, Array]:
        """(output, outputs of all blocks) of blocks 2 to n; their variables come, or are here, stacked."""
        names = [f"block{spec.block}" for spec in self.specs[1:]]
        variables = {
            collection: tree[STACKED] if STACKED in tree else stack_trees([tree[name] for name in names])
            for collection, tree in self.variables.items()
            if STACKED in tree or names[0] in tree
        }
        block = Block(self.config, self.specs[1], self.axis_name, parent=None)
        updates = train and self.is_mutable_collection("batch_stats")

        def step(x, inputs):
            variables, arrays = inputs
            mutable = ["batch_stats"] if updates else []
            y, updated = block.apply(variables, x, arrays, train, mutable=mutable)
            return y, (y, updated)

        step = jax.checkpoint(step) if self.config.remat else step
        x, (outputs, updated) = jax.lax.scan(step, x, (variables, stack_trees(own)))
        for collection, tree in updated.items():
            if STACKED in self.variables[collection]:
                self.put_variable(collection, STACKED, tree)
                continue
            for name, block in zip(names, unstack_trees(tree), strict=True):
                self.put_variable(collection, name, block)
        return x, outputs


class Head(nn.Module):
    """The last norm and activation of pre-activation nets, global average pooling, one linear layer."""

    config: "ModelConfig"
    num_outputs: int
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], train: bool, key: Array | None
    ) -> tuple[Float[Array, "b n"], Float[Array, "b c"]]:
        config = self.config
        if ORDERS[config.order].preactivation:
            x = normalize(config, x, train, name="norm", axis_name=self.axis_name)
            x = activate(config, config.activation, x)
        pooled = x.mean((1, 2), dtype=jnp.float32)
        y = Dropout(config.head_dropout)(fixup_bias(self, config, pooled, "bias"), key)
        draw = KERNEL_INITS["zero"] if config.zero_head else HEAD_INIT
        dense = nn.Dense(self.num_outputs, kernel_init=lambda key, shape, _: draw(key, shape), name="dense")
        return dense(y), pooled


class ResNet(nn.Module):
    """A residual net of the grammar. images -> (logits, features).

    images: normalised, float. logits: float32, before the output function. features: the output of
    `stem`, of each `stageS/blockB`, and `pooled`, by name. `axis_name`: the mapped axis of devices,
    over which batch statistics are averaged.
    """

    config: "ModelConfig"
    num_outputs: int
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, images: Float[Array, "b h w c"], train: bool = False
    ) -> tuple[Float[Array, "b n"], dict[str, Array]]:
        config = self.config
        key = self.make_rng("dropout") if train and is_random(config) else None
        specs = block_specs(config)
        own = [block_arrays(config, spec, key) for spec in specs]
        x = Stem(config, self.axis_name, name="stem")(images.astype(config.dtype), train)
        features = {"stem": x}
        for stage, group in itertools.groupby(specs, lambda spec: spec.stage):
            blocks = tuple(group)
            name = f"stage{stage}"
            arrays = own[blocks[0].index : blocks[-1].index + 1]
            x, outputs = Stage(config, blocks, self.axis_name, name=name)(x, arrays, train)
            features |= {f"{name}/{block}": y for block, y in outputs.items()}
        head_key = None if key is None else jax.random.fold_in(key, len(specs))
        logits, features["pooled"] = Head(config, self.num_outputs, self.axis_name, name="head")(
            x, train, head_key
        )
        return logits, features


def make_model(config: "ModelConfig", num_outputs: int, axis_name: str | None = None) -> ResNet:
    """The net of a config, checked. Raises InputError if the grammar does not allow it."""
    config.check()
    return ResNet(config, num_outputs, axis_name)
