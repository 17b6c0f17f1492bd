"""A trained net without its norms and shortcuts, and yet the same function: for where it is used.

In evaluation a batch norm is a factor and a constant, which fold into the convolution before it (RepVGG,
Ding 2021, arXiv 2101.03697; DiracNet, Zagoruyko 2017, arXiv 1706.00388). A shortcut that multiplies each
pixel by a matrix S folds into a branch of one convolution: S is added at the centre of the kernel. It folds
into a longer branch too (RMNet, Meng 2021, arXiv 2111.00687): further hidden channels carry x, which ReLU
leaves unchanged because x has been through a ReLU before, and the last convolution multiplies them by S.
"""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from resnet.errors import InputError
from resnet.models.branches import BRANCHES
from resnet.models.config import BlockSpec, ModelConfig
from resnet.models.geometry import block_specs, layers_of_block, stem_layers
from resnet.models.layers import dirac, standardized
from resnet.models.scanning import block_arrays
from resnet.models.shortcuts.table import SHORTCUTS, ShortcutPath, branch_places


@dataclasses.dataclass(frozen=True)
class Affine:
    """A convolution with a bias."""

    kernel: Float[np.ndarray, "k k i o"]
    bias: Float[np.ndarray, " o"]

    def at_centre(self, matrix: Float[np.ndarray, "i o"]) -> "Affine":
        """Returns a copy with `matrix` added at the centre of the kernel."""
        kernel, middle = self.kernel.copy(), len(self.kernel) // 2
        kernel[middle, middle] += matrix
        return Affine(kernel, self.bias)

    def within(self, inputs: int, outputs: int) -> "Affine":
        """Returns a copy padded with zeros to `inputs` input channels and `outputs` output channels."""
        more = [(0, 0), (0, 0), (0, inputs - self.kernel.shape[2]), (0, outputs - len(self.bias))]
        return Affine(np.pad(self.kernel, more), np.pad(self.bias, more[3:]))

    def params(self) -> dict[str, Any]:
        """As the variables of a net have it."""
        return {"kernel": jnp.float32(self.kernel), "bias": jnp.float32(self.bias)}


def fold(config: ModelConfig, variables: dict[str, Any]) -> tuple[ModelConfig, dict[str, Any]]:
    """(config, variables) of the net without shortcut and norm that computes the same in evaluation.

    A branch of several convolutions is wider by the channels that carry x, so such a net computes more than
    before; it holds nothing beside the branch instead. Raises InputError for nets that do not fold.
    """
    _check_folds(config)
    plain = dataclasses.replace(
        config, shortcut="none", norm="none", weight_standardization="none", zero_gamma=False, ghost_batch=0,
        bn_fixed="", gate_norm=False, stochastic_depth=0.0,
        branch="pooled" if config.branch == "dirac" else config.branch,
        branch_width=config.branch_width + BRANCHES[config.branch].expansion * _carries(config),
    )  # fmt: skip
    params: dict[str, Any] = {"stem": {}, "head": variables["params"]["head"]}
    for layer in stem_layers(config):
        params["stem"][layer.name] = _convolution(config, variables, ("stem",), layer.name).params()
    for block, wider in zip(block_specs(config), block_specs(plain), strict=True):
        stage = params.setdefault(f"stage{block.stage}", {})
        layers = _folded_block(config, variables, block, wider.width)
        stage[f"block{block.block}"] = {name: layer.params() for name, layer in layers.items()}
    return plain, {"params": params}


def _carries(config: ModelConfig) -> bool:
    """Whether hidden channels of the folded net carry x."""
    return config.shortcut != "none" and layers_of_block(config) > 1


def _check_folds(config: ModelConfig) -> None:
    """Raises InputError, naming the field, for a net that is not the same as any plain one."""
    several = ("average_projection", "shifted_projection")
    averages = config.transition == "pad" and config.pad_mode == "average"
    no_transition = SHORTCUTS[config.shortcut].changes_shape
    relu = config.activation == "relu" and config.after_sum in ("auto", "relu")
    carries = _carries(config)
    strided = any(block.stride > 1 for block in block_specs(config))
    pools = strided and any(operation.pools for operation in BRANCHES[config.branch].operations)
    for field, folds, why in (
        ("shortcut", SHORTCUTS[config.shortcut].by_pixel, "it does not multiply each pixel by one matrix"),
        ("norm", config.norm in ("batch", "none"), "its factors depend on the image"),
        (
            "activation_order",
            config.activation_order == "postactivation",
            "no norm may come before a convolution, or be shared",
        ),
        ("se_ratio", not config.se_ratio, "its gates depend on the image"),
        ("transition", no_transition or config.transition not in several, "it joins several pixels"),
        ("pad_mode", no_transition or not averages, "it joins several pixels"),
        ("activation", relu or not carries, "only ReLU, after the sum too, leaves unchanged what carries x"),
        ("gain_corrected", not (config.gain_corrected and carries), "it would scale what carries x"),
        ("branch", BRANCHES[config.branch].copies == 1, "it is the mean of two"),
        ("branch", not (pools and config.shortcut != "none"), "it pools pixels that the shortcut does not"),
        ("groups", config.groups == 1, "its kernels are divided into groups"),
    ):
        if not folds:
            raise InputError(f"a net with model.{field}={getattr(config, field)!r} does not fold: {why}")


def _convolution(config: ModelConfig, variables: dict[str, Any], path: tuple[str, ...], name: str) -> Affine:
    """A convolution and the norm behind it: conv2 and norm2."""
    trees = [variables["params"], variables.get("batch_stats", {})]
    for part in path:
        trees = [tree.get(part, {}) for tree in trees]
    conv, norm, statistics = trees[0][name], *(tree.get(name.replace("conv", "norm")) for tree in trees)
    learned = standardized(jnp.asarray(conv["kernel"]), config.weight_standardization, conv.get("gain"))
    if "a" in conv:
        learned = dirac(learned, conv["a"], conv["b"])
    kernel = np.asarray(learned, np.float64)
    bias = np.asarray(conv.get("bias", np.zeros(kernel.shape[-1])), np.float64)
    if norm is None:
        return Affine(kernel, bias)
    scale, offset, mean, variance = (
        np.asarray(each, np.float64)
        for each in (norm["scale"], norm["bias"], statistics["mean"], statistics["var"])
    )
    slope = scale / np.sqrt(variance + config.norm_epsilon)
    return Affine(kernel * slope, (bias - mean) * slope + offset)


def _folded_block(
    config: ModelConfig, variables: dict[str, Any], block: BlockSpec, hidden: int
) -> dict[str, Affine]:
    """The convolutions of a plain block, `hidden` channels wide inside."""
    names = [place.name for place in branch_places(config, block)]
    path = (f"stage{block.stage}", f"block{block.block}")
    layers = [_convolution(config, variables, path, name) for name in names]
    of_x, of_branch, constant = _shortcut(config, variables, block)
    last = layers[-1]
    layers[-1] = Affine(last.kernel @ of_branch, last.bias @ of_branch + constant)
    if len(layers) == 1:
        return {names[0]: layers[0].at_centre(of_x)}
    if _carries(config) and block.width + block.inputs > hidden:
        raise InputError(
            f"{block.name} has {block.inputs} channels to carry, and room for {hidden - block.width}: a net "
            "with a stem wider than its first stage does not fold"
        )
    widths = [block.inputs, *[hidden] * (len(layers) - 1), block.outputs]
    wide = [layer.within(*between) for layer, between in zip(layers, itertools.pairwise(widths), strict=True)]
    if _carries(config):
        carry = np.zeros((block.inputs, hidden))
        carry[:, block.width : block.width + block.inputs] = np.eye(block.inputs)
        wide[0] = wide[0].at_centre(carry)
        wide[1:-1] = [layer.at_centre(carry.T @ carry) for layer in wide[1:-1]]
        wide[-1] = wide[-1].at_centre(carry.T @ of_x)
    return dict(zip(names, wide, strict=True))


def _shortcut(config: ModelConfig, variables: dict[str, Any], block: BlockSpec) -> tuple[Any, Any, Any]:
    """(S, M, t) where the sum is S x + M F(x) + t for each pixel, read off its answers to unit vectors."""
    own = {
        name: tree.get(f"stage{block.stage}", {}).get(f"block{block.block}", {}).get("shortcut", {})
        for name, tree in variables.items()
    }
    own = jax.tree.map(jnp.asarray, own)  # a run's are NumPy's
    arrays, path = block_arrays(config, block, None), ShortcutPath(config, block)

    def answers(x, branch):
        count = max(len(x), len(branch))
        pixel = np.zeros((count, block.stride, block.stride, block.inputs), np.float32)
        pixel[:, 0, 0] = x
        given = np.broadcast_to(branch, (count, block.outputs))[:, None, None]
        y = path.apply(own, jnp.asarray(pixel), jnp.float32(given), False, None, arrays.number)
        return np.asarray(y, np.float64)[:, 0, 0]

    no_x, no_branch = np.zeros((1, block.inputs)), np.zeros((1, block.outputs))
    constant = answers(no_x, no_branch)[0]
    of_x = answers(np.eye(block.inputs), no_branch) - constant
    of_branch = answers(no_x, np.eye(block.outputs)) - constant
    survival = 1.0 if arrays.survival is None else float(arrays.survival)
    return of_x, survival * of_branch, constant
