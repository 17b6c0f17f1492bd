"""Fields without effect: what is said of them is compared with the programs that configs come to."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet.cli import main as command
from resnet.config import Config, idle_fields, replaced
from resnet.errors import InputError
from resnet.models.config import ModelConfig
from resnet.models.grammar import check_net, idle_in_net
from resnet.models.resnet import make_model
from resnet.models.shortcuts.table import SHORTCUTS
from resnet.runtime import machine
from resnet.training.optimizers import PRECONDITIONERS, OptimizerConfig, make_optimizer
from resnet.training.schedules import SCHEDULES, ScheduleConfig, make_schedule
from tests.few import few
from tests.models_cases import FIRST, NUM_OUTPUTS, PLAIN, images, net

# Another value of each field that some nets do not use.
OTHERS = {
    "depth": 32,
    "stride_at": "first",
    "transition": "projection",
    "pad_mode": "average",
    "pad_side": "both",
    "shortcut_scale": 0.25,
    "branch_scale": 0.25,
    "gate_bias": -2.0,
    "gate_norm": True,
    "gate_init": "lecun",
    "shortcut_dropout": 0.25,
    "dropout_kind": "plain",
    "alpha_init": "inverse_sqrt",
    "layer_scale": 0.25,
    "low_rank": 3,
    "streams": 3,
    "stochastic_depth_rule": "constant",
    "stochastic_depth_each": "image",
    "norm_groups": 4,
    "norm_epsilon": 1e-3,
    "bn_momentum": 0.5,
    "bn_unbiased": True,
}


def traced(function, *arguments) -> tuple[str, list[bytes]]:
    """The program of a function, and the arrays in it."""
    found = jax.make_jaxpr(function)(*arguments)
    return str(found.jaxpr), [np.asarray(constant).tobytes() for constant in found.consts]


def program(config):
    """What a net does at its start, in training and in evaluation."""
    model = make_model(config, NUM_OUTPUTS)

    def run(seed, x):
        key = jax.random.key(seed)
        variables = model.init(key, x)
        training = model.apply(variables, x, train=True, mutable=["batch_stats"], rngs={"dropout": key})
        return variables, training, model.apply(variables, x)

    return traced(run, 0, images())


def with_others(config, fields):
    """The net with other values of these fields; None where that is no net."""
    other = dataclasses.replace(config, **{field: OTHERS[field] for field in fields})
    try:
        check_net(other)
    except InputError:
        return None
    return other


def compare_with_programs(config, fields):
    """Fields that are named change nothing, all together; every other one changes the program."""
    fields = [field for field in fields if with_others(config, [field]) not in (None, config)]
    idle = [field for field in fields if field in idle_in_net(config)]
    own = program(config)
    assert idle and program(with_others(config, idle)) == own
    for field in set(fields).difference(idle):
        assert program(with_others(config, [field])) != own, field


@pytest.mark.thorough
@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_a_field_of_shortcuts_has_an_effect_or_is_named(shortcut):
    of_shortcuts = {field for each in SHORTCUTS.values() for field in each.fields}
    compare_with_programs(PLAIN[FIRST[shortcut]], [*of_shortcuts, "transition", "pad_mode", "pad_side"])


@pytest.mark.parametrize(
    "fields",
    few(
        1,
        [
            {},
            {"norm": "group"},
            {"norm": "layer"},
            {"norm": "none"},
            {"branch": "bottleneck"},
            {"family": "chain", "blocks": (2,)},
            {"family": "chain", "blocks": (2,), "branch": "bottleneck"},
            {"transition": "average_projection"},
            {"stochastic_depth": 0.5},
        ],
    ),
    ids=str,
)
def test_a_field_of_nets_has_an_effect_or_is_named(fields):
    of_shortcuts = {field for each in SHORTCUTS.values() for field in each.fields}
    compare_with_programs(net(**fields), OTHERS.keys() - of_shortcuts)


def test_every_field_that_nets_may_not_use_is_tested():
    named = set().union(*(idle_in_net(ModelConfig(shortcut=name)) for name in SHORTCUTS))
    assert named < OTHERS.keys()


@pytest.mark.parametrize("name", PRECONDITIONERS)
@pytest.mark.parametrize(
    ("field", "value"),
    {
        "momentum": 0.5,
        "beta2": 0.5,
        "epsilon": 0.5,
        "adapt": "kernels",
        "trust": 0.5,
        "decay": "kernels",
    }.items(),
)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_field_of_optimisers_has_an_effect_or_is_named(name, field, value, weight_decay):
    params = {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}

    def update(config):
        optimizer = make_optimizer(config, lambda step: jnp.float32(0.1))
        return traced(lambda grads: optimizer.update(grads, optimizer.init(params), params), params)

    config = OptimizerConfig(name=name, weight_decay=weight_decay)
    other = dataclasses.replace(config, **{field: value})
    assert (update(config) == update(other)) == (field in config.idle())


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("field", ["warmup_factor", "warmup_kind", "factor"])
@pytest.mark.parametrize("warmup", ["0 steps", "9 steps"])
def test_a_field_of_schedules_has_an_effect_or_is_named(name, field, warmup):
    def rates(config):
        schedule = make_schedule(config, batch_size=1, steps_per_epoch=10, total_steps=100)
        return [float(schedule(jnp.int32(step))) for step in range(0, 100, 4)]

    milestones = ("50 %",) if name == "step" else ()
    config = ScheduleConfig(name=name, warmup=warmup, milestones=milestones)
    other = dataclasses.replace(config, **{field: "constant" if field == "warmup_kind" else 0.5})
    assert (rates(config) == rates(other)) == (field in config.idle())


@pytest.mark.parametrize(
    ("fields", "idle"),
    [
        ({"train.mix_switch": 0.1}, "both `train.mixup` and `train.cutmix` above 0"),
        ({"train.mix_switch": 0.1, "train.mixup": 0.2}, "both `train.mixup` and `train.cutmix` above 0"),
        ({"train.mix_switch": 0.1, "train.mixup": 0.2, "train.cutmix": 1.0}, ""),
        ({"train.mix_each": "pair"}, "`train.mixup` or `train.cutmix` above 0"),
        ({"train.mix_each": "pair", "train.cutmix": 1.0}, ""),
        ({"train.ema_every": 5}, "`train.ema` above 0"),
        ({"train.ema_every": 5, "train.ema": 0.9}, ""),
        ({"train.rollbacks": 5}, "`train.on_divergence` rollback"),
        ({"train.rollbacks": 5, "train.on_divergence": "rollback"}, ""),
        ({"data.random_crop_fill": "reflect"}, "`data.random_crop` above 0"),
        ({"data.random_crop_fill": "reflect", "data.random_crop": 4}, ""),
        ({"data.memory_gb": 1.0}, "images in files that `data.storage` auto may hold in memory"),
        ({"data.memory_gb": 1.0, "data.name": "image_folder"}, ""),
        ({"data.bad_limit": 0.1}, "images in files that are streamed"),
        ({"data.bad_limit": 0.1, "data.name": "tfds:beans"}, ""),
        *(
            (
                {"data.on_bad_image": "skip", "data.name": "image_folder"} | streamed,
                "images in files that are held in memory",
            )
            for streamed in ({"data.storage": "stream"}, {"data.random_resized_crop": 0.5})
        ),
        ({"data.decoder": "simplejpeg", "data.name": "image_folder"}, "`data.image_size` above 0"),
        ({"data.decoder": "simplejpeg", "data.name": "image_folder", "data.image_size": 8}, ""),
        ({"train.mixup": 0.2, "train.mix_probability": 0.0}, "a `train.mix_probability` above 0"),
        ({"data.on_bad_image": "skip"}, ""),
        ({"model.gate_bias": -6.0}, "`model.shortcut` exclusive_gating, shortcut_only_gating, highway"),
        ({"model.gate_bias": -6.0, "model.shortcut": "highway"}, ""),
    ],
)
def test_a_field_without_effect_is_named_with_its_purpose(fields, idle):
    field = next(iter(fields))
    assert idle_fields(replaced(Config(), fields)) == ({field: idle} if idle else {})


@pytest.mark.parametrize("given", [(), ("--config.optimizer.beta2=0.9",)], ids=["recipe's", "given"])
def test_the_command_line_names_it(given, monkeypatch, caplog, tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(
        "from resnet.config import Config, replaced\n\n\ndef get_config():\n"
        "    return replaced(Config(), {'optimizer.epsilon': 1e-3})\n"
    )
    monkeypatch.setattr(machine, "prepare", lambda _: None)  # devices are counted already
    monkeypatch.setattr("sys.argv", ["resnet", "describe", f"--config={recipe}", *given])
    with caplog.at_level("INFO", logger="absl"):
        command.main()
    named = {each.args[0]: each.levelname for each in caplog.records if "has no effect" in each.message}
    assert named == {"optimizer.epsilon": "INFO"} | ({"optimizer.beta2": "WARNING"} if given else {})


def test_a_default_is_not_named():
    assert idle_fields(Config()) == {}
