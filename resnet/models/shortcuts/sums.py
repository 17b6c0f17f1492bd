"""Sums of x and F(x), each with a factor: one, a constant, a number of the block's depth, or a learned one.

`branch` is F(x). An entry of `SHORTCUTS` makes the function above it a choice.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from resnet.errors import InputError
from resnet.models.config import BlockSpec, ModelConfig
from resnet.models.geometry import count_blocks
from resnet.models.shortcuts.junction import UNNORMED, Junction, Shortcut
from resnet.models.shortcuts.transitions import project


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


def decayed_identity(at, x, branch):
    """alpha_l x + F(x): alpha falls from block to block, and no parameter sets it (arXiv 2404.10947)."""
    return at.number.astype(x.dtype) * x + branch


def decayed(config: ModelConfig, block: BlockSpec) -> float:
    """alpha_l = 1 - (1 - a) l / L in block l of L, a = `shortcut_scale`: a in the last block.

    The formula of the paper; its code leaves the first block at 1.
    """
    return 1 - (1 - config.shortcut_scale) * (block.index + 1) / count_blocks(config)


def depth_scaled(at, x, branch):
    """x + F(x) / sqrt(L), L the blocks of the net (Bordelon 2023, arXiv 2309.16620; Yang 2023, 2310.02244).

    A net of any depth then adds as much to x in all, and keeps the learning rate of SGD.
    """
    return x + branch * count_blocks(at.config) ** -0.5


def scaled_branch(at, x, branch):
    """x + alpha F(x), alpha learned (ReZero, Bachlechner 2020; SkipInit, De 2020)."""
    start = 0.0 if at.config.alpha_init == "zero" else count_blocks(at.config) ** -0.5
    return x + at.layers.scalar("alpha", start, branch) * branch


def layer_scale(at, x, branch):
    """x + lambda F(x), lambda learned for each channel (CaiT, Touvron 2021, arXiv 2103.17239)."""
    return x + at.layers.vector("lambda", at.config.layer_scale, branch) * branch


def laurel_weights(at, x, branch):
    """beta x + alpha F(x), (alpha, beta) the softmax of two learned numbers (LAuReL-RW, arXiv 2411.07501)."""
    alpha, beta = _softmax(at, x)
    return beta * x + alpha * branch


def laurel_low_rank(at, x, branch):
    """x + B A x + F(x), A and B of rank r; B starts at 0, so that the net starts as with `identity`."""
    return x + _low_rank(at, x) + branch


def laurel(at, x, branch):
    """beta (x + B A x) + alpha F(x): both of the above (LAuReL-RW+LR)."""
    alpha, beta = _softmax(at, x)
    return beta * (x + _low_rank(at, x)) + alpha * branch


def _softmax(at: Junction, x: Array) -> tuple[Array, Array]:
    """(alpha, beta), 1/2 each at the start."""
    a, b = (jnp.exp(at.layers.scalar(name, 0.0, x)) for name in ("alpha_logit", "beta_logit"))
    return a / (a + b), b / (a + b)


def _low_rank(at: Junction, x: Array) -> Array:
    """B A x on the channels of each pixel: 2 r C parameters."""
    x = at.layers.conv(x, "low_rank_a", at.config.low_rank, 1, bias=False, kernel_init="glorot")
    return at.layers.conv(x, "low_rank_b", at.block.outputs, 1, bias=False, kernel_init="zero")


ORTHOGONAL_EPSILON = 1e-6  # Oh 2025, section 3.


def orthogonal(at, x, branch):
    """x + F(x) - s x, s = <x, F> / <x, x> over the channels of each pixel (Oh 2025, arXiv 2505.11881).

    What F adds along x is removed, so that |y|^2 = |x|^2 + |F - s x|^2.
    """
    return _orthogonal(x, branch, (3,))


def orthogonal_image(at, x, branch):
    """As `orthogonal`, with one s for an image, over all its pixels and channels (form G of Oh 2025)."""
    return _orthogonal(x, branch, (1, 2, 3))


def _orthogonal(x: Float[Array, "b h w c"], branch: Float[Array, "b h w c"], axes: tuple[int, ...]) -> Array:
    """Inner products in float32; x + (F - s x), since (1 - s) x would round what the sum keeps of x."""
    wide, f = x.astype(jnp.float32), branch.astype(jnp.float32)
    along = (wide * f).sum(axes, keepdims=True)
    s = along / ((wide * wide).sum(axes, keepdims=True) + ORTHOGONAL_EPSILON)
    return x + (f - s * wide).astype(x.dtype)


def normed_identity(at, x, branch):
    """BN(x) + F(x), and F(x) alone where the shape changes: RepVGG without its 1x1 convolution.

    Source: Ding 2021 (arXiv 2101.03697), Table 6. Its net with the 1x1 convolution alone is `projection`.
    """
    return branch if at.block.changes_shape else branch + at.layers.norm(x, "identity_norm")


def repvgg(at, x, branch):
    """F(x) + BN(W x) + BN(x), the last where the shape stays (Ding 2021, arXiv 2101.03697).

    In pre-activation orders W x has no norm, as `projection` has none there.
    With a branch of one convolution, all three fold into it once the net is trained (folding.py).
    """
    return normed_identity(at, x, branch + project(at, x))


def _refuse_zero_alone(config: ModelConfig) -> None:
    """InputError where F(x) starts at 0 by `zero_gamma`, and nothing but F(x) leaves some blocks."""
    if config.zero_gamma:
        raise InputError(
            f"`model.zero_gamma` starts F(x) at 0, and with shortcut {config.shortcut!r} some blocks give "
            "F(x) alone, through which no gradient would pass; set model.zero_gamma=False"
        )


def _refuse_zero_twice(field: str) -> Callable[[ModelConfig], None]:
    """InputError where both F(x), by `zero_gamma`, and its factor, by `field`, start at 0."""

    def check(config: ModelConfig) -> None:
        if config.zero_gamma and getattr(config, field) in (0, "zero"):
            raise InputError(
                f"`model.zero_gamma` and model.{field}={getattr(config, field)} both start a branch at 0, "
                "through which no gradient would pass; set model.zero_gamma=False"
            )

    return check


SHORTCUTS = {
    "none": Shortcut(none, changes_shape=True, is_sum=False, by_pixel=True, check=_refuse_zero_alone),
    "identity": Shortcut(identity, by_pixel=True),
    "projection": Shortcut(project_everywhere, changes_shape=True, by_pixel=True),
    "constant_scaling": Shortcut(constant_scaling, by_pixel=True, fields=("shortcut_scale", "branch_scale")),
    "rezero": Shortcut(
        scaled_branch, by_pixel=True, fields=("alpha_init",), check=_refuse_zero_twice("alpha_init")
    ),
    "skipinit": Shortcut(
        scaled_branch, norm_free=True, by_pixel=True, fields=("alpha_init",), needs=UNNORMED
    ),
    "decayed_identity": Shortcut(decayed_identity, by_pixel=True, fields=("shortcut_scale",), number=decayed),
    "depth_scaled": Shortcut(depth_scaled, by_pixel=True),
    "layer_scale": Shortcut(
        layer_scale, by_pixel=True, fields=("layer_scale",), check=_refuse_zero_twice("layer_scale")
    ),
    "laurel_weights": Shortcut(laurel_weights, by_pixel=True),
    "laurel_low_rank": Shortcut(laurel_low_rank, by_pixel=True, fields=("low_rank",), zero_kernels=True),
    "laurel": Shortcut(laurel, by_pixel=True, fields=("low_rank",), zero_kernels=True),
    "orthogonal": Shortcut(orthogonal),
    "orthogonal_image": Shortcut(orthogonal_image),
    "normed_identity": Shortcut(
        normed_identity,
        changes_shape=True,
        by_pixel=True,
        needs={"branch": "single"},
        check=_refuse_zero_alone,
    ),
    "repvgg": Shortcut(repvgg, changes_shape=True, by_pixel=True, needs={"branch": "single"}),
}
