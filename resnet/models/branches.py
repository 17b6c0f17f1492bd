"""The residual branch F(x): its convolutions, in one of the five orders of He 2016, Table 2."""

import dataclasses
from typing import TYPE_CHECKING

from flax import linen as nn
from jaxtyping import Array

from resnet.models.geometry import BlockSpec, blocks_per_stage, branch_convolutions, scaled
from resnet.models.layers import Conv, Dropout, SqueezeExcitation, activate, fixup_bias
from resnet.models.norms import normalize

if TYPE_CHECKING:
    from resnet.models.grammar import ModelConfig

NORM, ACTIVATION = "norm", "activation"


@dataclasses.dataclass(frozen=True)
class Order:
    """What stands before the first convolution, after the last one, and after the sum.

    Between two convolutions stand a norm and an activation in every order.
    """

    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    after_sum: tuple[str, ...] = ()

    @property
    def preactivation(self) -> bool:
        return bool(self.before)


ORDERS = {
    "postactivation": Order(after=(NORM,), after_sum=(ACTIVATION,)),
    "norm_after_sum": Order(after_sum=(NORM, ACTIVATION)),
    "activation_before_sum": Order(after=(NORM, ACTIVATION)),
    "activation_only_preactivation": Order(before=(ACTIVATION,), after=(NORM,)),
    "preactivation": Order(before=(NORM, ACTIVATION)),
}


def after_sum_activation(config: "ModelConfig") -> str:
    """The function after the sum."""
    if config.after_sum != "auto":
        return config.after_sum
    return config.activation if ACTIVATION in ORDERS[config.order].after_sum else "identity"


class Branch:
    """The residual branch of `block`, whose layers are submodules of the calling module.

    `start` is the part before the first convolution, which the shortcut may share; `finish` the rest.
    With shortcut 'fixup' a learned scalar is added before every convolution and activation
    (Zhang 2019); the one before the function after the sum belongs to the shortcut.
    """

    def __init__(
        self,
        module: nn.Module,
        config: "ModelConfig",
        block: BlockSpec,
        train: bool,
        axis_name: str | None,
    ):
        self.module, self.config, self.block = module, config, block
        self.train, self.axis_name = train, axis_name
        self.order = ORDERS[config.order]
        self.convolutions = branch_convolutions(config, block)
        self.norms = self.biases = 0

    def start(self, x: Array) -> Array:
        """x through what stands before the first convolution."""
        return self._steps(self.order.before, self._bias(x))

    def finish(self, x: Array, key: Array | None) -> Array:
        """The convolutions and what stands between and after them; `key` draws the dropout."""
        config = self.config
        for i, spec in enumerate(self.convolutions):
            last = i == len(self.convolutions) - 1
            if i:
                x = self._bias(self._steps((NORM, ACTIVATION), x))
            if last and config.branch_dropout:
                x = Dropout(config.branch_dropout)(x, key)
            init, scale = branch_init(config, last, len(self.convolutions))
            if last and config.zero_gamma and not self.order.after:
                # A norm that an activation follows must not start at 0: ReLU would pass no gradient.
                init = "zero"
            x = Conv(spec, config, init, scale, name=spec.name)(x)
        x = self._steps(self.order.after, x, config.zero_gamma)
        if config.squeeze:
            x = SqueezeExcitation(scaled(x.shape[-1], config.squeeze), name="squeeze")(x)
        return x

    def after_sum(self, y: Array) -> Array:
        """What follows the sum of shortcut and branch."""
        y = self._steps(tuple(s for s in self.order.after_sum if s == NORM), y)
        return activate(self.config, after_sum_activation(self.config), y)

    def _steps(self, steps: tuple[str, ...], x: Array, zero_scale: bool = False) -> Array:
        for step in steps:
            if step == ACTIVATION:
                x = activate(self.config, self.config.activation, self._bias(x))
                continue
            self.norms += 1
            x = normalize(
                self.config, x, self.train, name=f"norm{self.norms}", axis_name=self.axis_name,
                zero_scale=zero_scale,
            )  # fmt: skip
        return x

    def _bias(self, x: Array) -> Array:
        self.biases += 1
        return fixup_bias(self.module, self.config, x, f"bias{self.biases}")


def branch_init(config: "ModelConfig", last: bool, convolutions: int) -> tuple[str, float]:
    """(initialiser, factor) of a convolution of the branch; Fixup: the last 0, the others by depth."""
    if config.shortcut != "fixup":
        return config.kernel_init, config.branch_init_scale
    blocks = sum(blocks_per_stage(config))
    return ("zero", 1.0) if last else (config.kernel_init, blocks ** (-1 / (2 * convolutions - 2)))
