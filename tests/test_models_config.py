"""Every field of ModelConfig does something, and what cannot work is refused with the remedy."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet.errors import InputError
from resnet.models.config import ModelConfig
from resnet.models.grammar import CHOICES, check_net
from resnet.models.layers import OUTPUTS
from resnet.models.resnet import make_model
from resnet.training.finetune import OF_THE_FUNCTION, has_effect
from tests.models_cases import NUM_OUTPUTS, TINY, net

BOTTLENECK, GATE = {"branch": "bottleneck"}, {"shortcut": "exclusive_gating"}
# What the net must be for a field to matter, and another value of the field.
KNOBS = {
    "family": ({"family": "wide", "blocks": (), "depth": 10, "width": 0.25}, "cifar"),
    "depth": ({"family": "cifar", "blocks": (), "depth": 8, "width": 0.25}, 14),
    "blocks": ({}, (1, 2)),
    "width": ({}, 2.0),
    "widening": ({}, 3.0),
    "stem_width": ({}, 6),
    "stem": ({}, "imagenet"),
    "branch": ({}, "bottleneck"),
    "activation_order": ({}, "preactivation"),
    "branch_width": ({}, 2.0),
    "groups": ({}, 2),
    "stride_at": (BOTTLENECK, "first"),
    "se_ratio": ({}, 0.5),
    "branch_dropout": ({}, 0.5),
    "activation": ({}, "silu"),
    "after_sum": ({}, "identity"),
    "gain_corrected": ({}, True),
    "shortcut": ({}, "none"),
    "transition": ({}, "projection"),
    "pad_mode": ({}, "average"),
    "pad_side": ({}, "both"),
    "shortcut_scale": ({"shortcut": "constant_scaling"}, 0.25),
    "branch_scale": ({"shortcut": "constant_scaling"}, 0.25),
    "gate_bias": (GATE, -3.0),
    "gate_norm": (GATE, True),
    "gate_init": (GATE, "zero"),
    "shortcut_dropout": ({"shortcut": "dropout"}, 0.25),
    "dropout_kind": ({"shortcut": "dropout"}, "plain"),
    "alpha_init": ({"shortcut": "rezero"}, "inverse_sqrt"),
    "layer_scale": ({"shortcut": "layer_scale"}, 0.1),
    "low_rank": ({"shortcut": "laurel"}, 2),
    "streams": ({"shortcut": "hyper_static"}, 3),
    "stochastic_depth": ({}, 0.5),
    "stochastic_depth_rule": ({"stochastic_depth": 0.5}, "constant"),
    "stochastic_depth_each": ({"stochastic_depth": 0.5}, "image"),
    "norm": ({}, "group"),
    "norm_groups": ({"norm": "group"}, 4),
    "norm_epsilon": ({}, 1e-3),
    "bn_momentum": ({}, 0.5),
    "bn_unbiased": ({}, True),
    "bn_fixed": ({}, "stage1"),
    "ghost_batch": ({}, 2),
    "weight_standardization": ({}, "plain"),
    "kernel_init": ({}, "orthogonal"),
    "branch_init_scale": ({}, 0.5),
    "zero_gamma": ({}, True),
    "zero_head": ({}, True),
    "output": ({}, "sigmoid"),
    "head_dropout": ({}, 0.5),
    "padding": ({}, "circular"),
    "dtype": ({}, "bfloat16"),
    "scan_blocks": ({"blocks": (1, 3)}, True),
    "remat": ({}, True),
}


@functools.cache
def program(config, trains=True):
    """All that a net does, as text: its training and evaluation traced, and how it starts; or its refusal."""
    try:
        model = make_model(config, NUM_OUTPUTS)
    except InputError as error:
        return str(error)
    key, x = jax.random.key(0), jax.ShapeDtypeStruct((4, 8, 8, 3), jnp.float32)
    variables = jax.eval_shape(model.init, key, x)

    def run(variables, x, key):
        rngs = {"mutable": ["batch_stats"], "rngs": {"dropout": key}}
        trained = model.apply(variables, x, train=True, **rngs) if trains else None
        logits, features = model.apply(variables, x)
        return trained, OUTPUTS[config.output](logits), features

    traced = jax.make_jaxpr(run)(variables, x, key), jax.make_jaxpr(model.init)(key, x)
    text = "\n".join(f"{closed} {[str(c) for c in closed.consts]}" for closed in traced)
    return re.sub(r"0x[0-9a-f]+", "", text)


@pytest.mark.thorough
@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(ModelConfig)])
def test_every_field_changes_something(field):
    """The program, how it starts, or whether there is one. A new field needs a line in KNOBS."""
    fields, value = KNOBS[field]
    base = ModelConfig(**(TINY | fields))
    check_net(base)
    assert program(dataclasses.replace(base, **{field: value})) != program(base)


@pytest.mark.thorough
@pytest.mark.parametrize("field", [name for name in KNOBS if f"model.{name}" not in OF_THE_FUNCTION])
def test_no_other_field_decides_what_given_weights_compute(field):
    """Of two nets that take the same weights, and differ in a field of which no warning tells."""
    fields, value = KNOBS[field]
    config = ModelConfig(**(TINY | fields))
    configs = config, dataclasses.replace(config, **{field: value})
    try:
        nets = [make_model(each, NUM_OUTPUTS) for each in configs]
    except InputError:
        return
    x = jax.random.normal(jax.random.key(0), (4, 8, 8, 3))
    shapes = [jax.tree.map(jnp.shape, jax.eval_shape(net.init, jax.random.key(0), x)) for net in nets]
    if shapes[0] != shapes[1]:
        return
    variables = jax.tree.map(lambda leaf: jnp.abs(leaf) + 0.1, nets[0].init(jax.random.key(1), x))
    logits = [net.apply(variables, x)[0] for net in nets]
    tolerance = 0.05 if field == "dtype" else 1e-5
    np.testing.assert_allclose(*logits, rtol=tolerance, atol=tolerance)


# Fields that have no effect in some nets, and what such a net is.
IDLE = {
    "stride_at": {},
    "shortcut_scale": {},
    "branch_scale": {"shortcut": "decayed_identity"},
    "shortcut_dropout": {},
    "dropout_kind": {"shortcut": "shake_drop"},
    "transition": {"shortcut": "projection"},
    "pad_mode": {"transition": "projection"},
    "pad_side": {"shortcut": "none"},
    "norm_groups": {},
    "norm_epsilon": {"norm": "none"},
    "stochastic_depth": {"stochastic_depth_each": "image"},
    "stochastic_depth_rule": {},
    "stochastic_depth_each": {},
}


@pytest.mark.thorough
@pytest.mark.parametrize(("field", "fields"), IDLE.items())
def test_where_a_field_is_said_to_have_no_effect_it_has_none(field, fields):
    """There no warning tells of it when a net takes the weights of another; drop path changes training."""

    def pair(fields):
        base = ModelConfig(**TINY | fields)
        return base, dataclasses.replace(base, **{field: KNOBS[field][1]})

    idle = pair(fields)
    one, other = (program(each, trains=field != "stochastic_depth") for each in idle)
    assert not any(has_effect(field, each) for each in idle) and one == other
    assert any(has_effect(field, each) for each in pair(KNOBS[field][0]))


def test_the_same_net_is_the_same_program():
    assert program(ModelConfig(**TINY)) == program.__wrapped__(ModelConfig(**TINY))


# Fields, and what the message must say: the field or place, what is wrong, the remedy.
REFUSED = [
    ({"family": "cifar", "blocks": (), "depth": 21}, r"`model.depth` must be 6n\+2 \(20, 32, 44.*got 21"),
    ({"family": "cifar", "blocks": (), "depth": 2}, r"`model.depth` must be 6n\+2"),
    ({"family": "wide", "blocks": (), "depth": 20}, r"`model.depth` must be 6n\+4 \(22, 34.*got 20"),
    ({"family": "imagenet", "blocks": (), "depth": 19}, "one of 18, 34; got 19.*set model.blocks"),
    ({"family": "imagenet", "blocks": (), "depth": 51, **BOTTLENECK}, "one of 26, 50, .*got 51"),
    ({"family": "imagenet", "blocks": (), "branch": "single"}, "one of none; got 20.*set model.blocks"),
    ({"family": "cifar", "blocks": (1, 1)}, r"`model.blocks` must give 3 numbers.*got \(1, 1\)"),
    ({"blocks": (1, 0)}, "`model.blocks` must be at least 1; got 0"),
    ({"shortcut": "skipinit"}, "'skipinit' is defined without norm.*'batch'; set model.norm=none"),
    ({"shortcut": "fixup"}, "'fixup' is defined without norm.*set model.norm=none.*rezero"),
    ({"shortcut": "normalizer_free"}, "'normalizer_free' is defined without norm"),
    ({"shortcut": "fixup", "norm": "none", "activation_order": "preactivation"},
     "'fixup'.*order=postactivation"),
    ({"shortcut": "fixup", "norm": "none", "branch": "single"}, "'fixup'.*set model.branch=basic"),
    ({"shortcut": "normalizer_free", "norm": "none"},
     "needs model.activation_order=preactivation and.*=scaled; got"),
    ({"shortcut": "exclusive_gating", "stochastic_depth": 0.5},
     "`model.stochastic_depth` drops.*'exclusive_gating'.*set model.stochastic_depth=0 or"),
    ({"shortcut": "highway", "stochastic_depth": 0.5}, "`model.stochastic_depth`.*'highway'"),
    ({"shortcut": "none", "stochastic_depth": 0.5}, "`model.stochastic_depth`.*'none'"),
    ({"transition": "none"}, "stage2/block1 turns 4 channels into 8 at stride 2, and shortcut 'identity'.*"
     "set model.transition=pad .* or model.transition=projection"),
    ({"stem_width": 6, "family": "cifar", "blocks": (1, 1, 1), "width": 0.25},
     "stage1/block1 narrows 6 channels to 4.*set model.transition=projection"),
    ({"groups": 3}, r"`model.groups` must divide the channels of stage1/block1/conv1 \(4 to 4\); got 3"),
    ({"groups": 2, "kernel_init": "identity"}, "`model.kernel_init` 'identity'.*set model.groups=1"),
    ({"norm": "group", "norm_groups": 8}, r"`model.norm_groups` must divide the widths of stem \(4\); got 8"),
    ({"norm": "group", "norm_groups": 4, "branch_width": 0.5},
     r"`model.norm_groups` must divide the widths of stage1/block1 \(2, 4\); got 4"),
    ({"norm": "group", "norm_groups": 4, "stem_width": 2, "activation_order": "preactivation"},
     r"widths of stage1/block1 \(4, 4, 2\); got 4"),
    ({"norm": "group", "norm_groups": 4, "stem": "deep"}, r"widths of stem \(2, 2, 4\); got 4"),
    ({"norm": "none", "zero_gamma": True}, "`model.zero_gamma` needs a norm; set `model.norm`"),
    ({"norm": "none", "gate_norm": True}, "`model.gate_norm` needs a norm; set `model.norm`"),
    ({"activation_order": "activation_before_sum", "zero_gamma": True}, "`model.zero_gamma`.*=rezero"),
    ({"activation_order": "preactivation", "branch": "dirac", "zero_gamma": True},
     "`model.zero_gamma` True sets .* which model.branch=dirac normalises; set model.zero_gamma=False"),
    *(({"shortcut": shortcut, "branch": "single", "zero_gamma": True}, f"'{shortcut}' some blocks give F")
      for shortcut in ("none", "normed_identity")),
    ({"shortcut": "rezero", "zero_gamma": True}, "and model.alpha_init=zero both start a branch at 0"),
    ({"shortcut": "layer_scale", "layer_scale": 0.0, "zero_gamma": True}, "and model.layer_scale=0.0 both"),
    *(({"branch": branch, field: 2}, f"{field}` 2 has no effect on branch '{branch}'; set model.{field}=1")
      for branch, field in (("dirac", "groups"), ("pooled", "groups"), ("single", "branch_width"))),
    ({"branch": "dirac", "branch_init_scale": 0.5}, "`model.branch_init_scale` 0.5 sets .*=1"),
    ({"branch": "dirac", "kernel_init": "zero"}, "`model.kernel_init` 'zero' sets"),
    *(
        ({"weight_standardization": "plain", **fields},
         f"`model.{field}` .* sets the size of kernels at the start, which model.weight_standardization norm")
        for field, fields in {
            "branch_init_scale": {"branch_init_scale": 0.5},
            "zero_gamma": {"activation_order": "preactivation", "zero_gamma": True},
            "kernel_init": {"kernel_init": "zero"},
            "gate_init": {"shortcut": "exclusive_gating", "gate_init": "zero"},
            "shortcut": {"shortcut": "laurel"},
        }.items()
    ),
    ({"shortcut": "fixup", "norm": "none", "branch_init_scale": 0.5}, "branch_init_scale=1; got 0.5"),
    ({"activation": "tat_relu", "norm": "none", "after_sum": "relu"}, "set model.after_sum=auto"),
    ({"norm": "group", "ghost_batch": 2}, "`model.ghost_batch` is for batch norm; `model.norm` is 'group'"),
    ({"groups": 0}, "`model.groups` must be at least 1; got 0"),
    ({"norm_groups": 0}, "`model.norm_groups` must be at least 1; got 0"),
    ({"ghost_batch": -1}, "`model.ghost_batch` must be at least 0; got -1"),
    ({"stem_width": -1}, "`model.stem_width` must be at least 0; got -1"),
    ({"low_rank": 0}, "`model.low_rank` must be at least 1; got 0"),
    ({"streams": 0}, "`model.streams` must be at least 1; got 0"),
    ({"shortcut": "laurel_previous", "streams": 1}, "set model.streams=2 or more; got 1"),
    *(({"shortcut": "laurel_previous"} | after, "'laurel_previous' carries earlier inputs.*=preactivation")
      for after in ({"activation_order": "norm_after_sum"}, {"after_sum": "sigmoid"}, {"activation": "tanh"},
                    {"gain_corrected": True})),
    ({"shortcut": "reversible"}, "'reversible' is defined where nothing follows.*=preactivation"),
    ({"shortcut": "depth_attention"}, "'depth_attention' is defined where nothing follows.*=preactivation"),
    ({"shortcut": "reversible", "activation_order": "preactivation", "stem_width": 5},
     "'reversible' halves the channels, and stage1/block1 has 5; set model.width"),
    ({"shortcut": "depth_attention", "transition": "projection", "activation_order": "preactivation"},
     "'depth_attention'.*set model.transition=pad"),
    ({"widening": -1.0}, "`model.widening` must be at least 0; got -1.0"),
    ({"widening": 4.0, "scan_blocks": True}, "`model.widening`.*set model.scan_blocks=None"),
    ({"branch": "shake_shake", "norm": "layer"}, "'shake_shake' has two.*model.norm='layer'.*=batch"),
    ({"branch": "shake_shake", "groups": 2}, "'shake_shake' has two.*model.groups=2.*=1"),
    ({"branch": "shake_shake", "se_ratio": 0.5}, "'shake_shake' has two.*model.se_ratio=0.5.*=0"),
    ({"width": 0.0}, "`model.width` must be above 0; got 0.0"),
    ({"branch_width": -1.0}, "`model.branch_width` must be above 0; got -1.0"),
    ({"norm_epsilon": 0.0}, "`model.norm_epsilon` must be above 0; got 0.0"),
    ({"width": float("nan")}, "`model.width` must be above 0; got nan"),
]  # fmt: skip
FRACTIONS = (
    "se_ratio", "branch_dropout", "shortcut_dropout", "stochastic_depth", "bn_momentum", "head_dropout"
)  # fmt: skip
REFUSED += [({field: 1.0}, f"`model.{field}` must be at least 0 and below 1; got 1.0") for field in FRACTIONS]
REFUSED += [({field: -0.1}, f"`model.{field}` must be at least 0 and below 1") for field in FRACTIONS]
REFUSED += [({field: "odd"}, f"`model.{field}` must be one of .*; got 'odd'") for field in CHOICES]


@pytest.mark.parametrize("fields, message", REFUSED, ids=[str(fields) for fields, _ in REFUSED])
def test_what_cannot_work_is_refused(fields, message):
    """In one line, when the config is checked and when the net is made."""
    config = ModelConfig(**(TINY | fields))
    with pytest.raises(InputError, match=message) as caught:
        check_net(config)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError):
        make_model(config, NUM_OUTPUTS)


def test_the_remedies_work():
    """What messages name, done; and stochastic depth with every shortcut that adds the branch."""
    for fields in (
        {"shortcut": "skipinit", "norm": "none"},
        {"transition": "none", "shortcut": "projection"},
        {"transition": "projection"},
        {"family": "imagenet", "blocks": (1, 1, 1, 1), "branch": "single"},
        {"shortcut": "shortcut_only_gating", "stochastic_depth": 0.5},
    ):
        make_model(ModelConfig(**(TINY | fields)), NUM_OUTPUTS)
    assert net(shortcut="identity", stochastic_depth=0.5).stochastic_depth
