"""What a residual net is, as plain data: the fields to choose, and the blocks that they come to.

Which combinations of fields are a net is checked in grammar.py.
"""

import dataclasses

from resnet.fields import Fields


@dataclasses.dataclass(unsafe_hash=True)
class ModelConfig(Fields, section="model"):
    """A residual net. Defaults: ResNet-20 for CIFAR (He 2015), shortcut A."""

    # The net from far away.
    family: str = "cifar"
    """rule of depth, and widths of the stages. cifar: 3n+2, 6n+2 or 9n+2 layers, for branches of 1, 2 or 3
    convolutions; 16-32-64. wide: as cifar, with +4 in place of +2. imagenet: tables from 18 to 420 layers;
    64-128-256-512. chain: equal blocks, n+2, 2n+2 or 3n+2 layers; 16"""
    depth: int = 20
    """number of layers with weights, by the family's rule; ignored where `blocks` is given"""
    blocks: tuple[int, ...] = ()
    """residual blocks of each stage, instead of `depth`"""
    width: float = 1.0
    """factor on the family's widths (WRN-28-10: 10)"""
    widening: float = 0.0
    """channels that all blocks together add to the family's first width (PyramidNet: 48 to 270), each as
    many, in place of its other widths; 0 for those"""
    stem_width: int = 0
    """channels that leave the stem (Wide ResNet: 16), 0 for the family's first width times `width`"""
    stem: str = "cifar"
    """first layers: cifar (3x3), imagenet (7x7/2, max-pool), deep (three 3x3, max-pool), deep_strided,
    bit (imagenet with zeros around the max-pool)"""

    # The residual branch F(x).
    branch: str = "basic"
    """convolutions of F: basic (3x3, 3x3), bottleneck (1x1, 3x3, 1x1), single (3x3), pooled (3x3, its
    stride a max-pool before it), dirac (the same with the identity in its kernel: DiracNet), shake_shake (two
    basic branches, mixed at random)"""
    activation_order: str = "postactivation"
    """He 2016 Table 2, a to e: postactivation, norm_after_sum, activation_before_sum,
    activation_only_preactivation, preactivation; pyramid (PyramidNet: a norm before, between and after,
    one activation), shake_shake (as activation_only_preactivation, the head's norm in the stem)"""
    branch_width: float = 1.0
    """channels inside a branch over its stage's width (ResNeXt-50 32x4d and WRN-50-2: 2)"""
    groups: int = 1
    """groups of the branch's 3x3 convolutions (ResNeXt: 32)"""
    stride_at: str = "3x3"
    """convolution of a bottleneck that carries the stride: first (v1) or 3x3 (v1.5)"""
    se_ratio: float = 0.0
    """squeeze-and-excitation: its hidden width over the block's outputs, 0 for none (SE: 1/16)"""
    branch_dropout: float = 0.0
    """dropout rate before the last convolution of a branch (Wide ResNet: 0.3)"""
    activation: str = "relu"
    """non-linearity inside the branch, the stem and the head: relu, leaky_relu, sigmoid, tanh, silu, gelu,
    identity; tat_relu, tat_softplus, dks_softplus are solved for the depth of a net of neither shortcut nor
    norm"""
    after_sum: str = "auto"
    """function after the sum; auto: `activation` where the order has one there, else identity"""
    gain_corrected: bool = False
    """multiply every activation by its variance gain (nfnets), so that it keeps unit variance"""

    # The shortcut.
    shortcut: str = "identity"
    """how x and F(x) are joined: none, identity, projection, constant_scaling, exclusive_gating,
    shortcut_only_gating, highway, dropout, rezero, skipinit, fixup, normalizer_free; since 2016:
    decayed_identity, depth_scaled, layer_scale, laurel_weights, laurel_low_rank, laurel, orthogonal,
    orthogonal_image, normed_identity, repvgg, shake_drop; of several streams: hyper_static, hyper_dynamic,
    hyper_stochastic, reversible, laurel_previous, depth_attention"""
    transition: str = "pad"
    """x where the shape changes: pad (option A), projection (B), average_projection (ResNet-D),
    shifted_projection (Shake-Shake), none"""
    pad_mode: str = "subsample"
    """spatial part of a zero-padding transition: subsample (He 2015) or average (stochastic depth)"""
    pad_side: str = "end"
    """where the zero channels go: end (fb.resnet.torch) or both"""
    shortcut_scale: float = 0.5
    """a of constant scaling, a*x + b*F(x); a of the last block of decayed_identity (its paper: 0.6)"""
    branch_scale: float = 0.5
    """b of constant scaling, a*x + b*F(x)"""
    gate_bias: float = 0.0
    """initial bias of a gate, before its sigmoid (He 2016 Table 1: 0 to -10; highway: -6)"""
    gate_norm: bool = False
    """normalise a 1x1 gate before its sigmoid"""
    gate_init: str = "he_fan_out"
    """initialisation of a gate's kernel"""
    shortcut_dropout: float = 0.5
    """rate of the dropout shortcut; 1 - p of the last block in shake_drop"""
    dropout_kind: str = "inverted"
    """of the dropout shortcut: inverted (scaled by 1/keep in training) or plain (by keep in evaluation)"""
    alpha_init: str = "zero"
    """start of the branch's multiplier in rezero and skipinit: zero or inverse_sqrt (1/sqrt(blocks))"""
    layer_scale: float = 1e-5
    """start of the branch's multipliers in layer_scale (CaiT: 0.1 to 18 layers, 1e-5 at 24, 1e-6 beyond)"""
    low_rank: int = 16
    """rank of laurel's map of x (LAuReL: 16)"""
    streams: int = 2
    """streams of x in hyper-connections (Zhu 2024: 2 for images, 4 for text); in laurel_previous, outputs of
    blocks that each block is given"""
    stochastic_depth: float = 0.0
    """probability of dropping the last branch in training (Huang 2016: 0.5)"""
    stochastic_depth_rule: str = "linear"
    """drop probability over depth: linear (from 0) or constant"""
    stochastic_depth_each: str = "batch"
    """what a draw is for: batch, that of a device, whose evaluation weighs branches by their survival (Huang
    2016); or image, which weighs them so in training (timm's drop path)"""

    # Normalisation.
    norm: str = "batch"
    """normalisation: batch, group, layer, instance, none"""
    norm_groups: int = 32
    """channel groups of group norm"""
    norm_epsilon: float = 1e-5
    """added to the variance"""
    bn_momentum: float = 0.9
    """share of the old running statistics kept at each step (PyTorch's momentum is one minus this)"""
    bn_unbiased: bool = False
    """running variance with n-1 in the denominator, as PyTorch keeps it"""
    bn_fixed: str = ""
    """regular expression on the paths of batch norms, as stage1/block1/norm1/, that keep their running
    statistics, and use them in training too: for fine-tuning; empty: none"""
    ghost_batch: int = 0
    """images that share batch statistics (He 2015 CIFAR: 64), 0 for the whole batch on all devices"""
    weight_standardization: str = "none"
    """kernels standardised per output channel: none, plain (BiT), scaled (normaliser-free)"""

    # Start.
    kernel_init: str = "he_fan_out"
    """initial kernels: he_fan_in, he_fan_out, glorot, lecun, orthogonal, delta_orthogonal,
    scaled_delta_orthogonal (TAT, DKS), identity, zero"""
    branch_init_scale: float = 1.0
    """factor on the initial kernels of every residual branch"""
    zero_gamma: bool = False
    """start branches at 0: the scale of the norm that ends them (Goyal 2017), or the last kernel (timm)"""
    zero_head: bool = False
    """start the last linear layer at 0 (Fixup)"""

    # The end, and how it is computed.
    output: str = "softmax"
    """output function, which fixes the loss: softmax (cross-entropy), sigmoid (binary cross-entropy),
    identity (squared error)"""
    head_dropout: float = 0.0
    """dropout rate before the last linear layer"""
    padding: str = "zero"
    """border of the 3x3 and 7x7 convolutions: zero or circular"""
    dtype: str = "float32"
    """type of activations and products: float32 or bfloat16; parameters and statistics stay float32"""
    scan_blocks: bool | None = None
    """run the identical blocks of a stage as one scanned block, which is compiled once for all; None: where
    a stage has more than 18, and under `remat`; never with `bn_fixed` or `widening`"""
    remat: bool = False
    """recompute the activations of each block in the backward pass instead of storing them. On the CPU this
    saves memory in scanned blocks alone. Scanned reversible blocks are recomputed from their outputs"""


@dataclasses.dataclass(frozen=True)
class BlockSpec:
    """A residual block's place and shape; `stage` and `block` count from 1, `index` from 0 over the net."""

    stage: int
    block: int
    index: int
    inputs: int
    width: int
    outputs: int
    stride: int

    @property
    def name(self) -> str:
        """The block's path, such as stage1/block2."""
        return f"stage{self.stage}/block{self.block}"

    @property
    def changes_shape(self) -> bool:
        """Whether this is a transition block."""
        return self.stride != 1 or self.inputs != self.outputs
