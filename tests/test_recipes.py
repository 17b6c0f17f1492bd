"""Each file of configs/: short, documented, a net that can be built, and a recipe that steps."""

import ast
import csv
import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet.config import Config, field_values, load_config
from resnet.data.datasets import load_dataset
from resnet.durations import parse_duration
from resnet.errors import InputError
from resnet.models.counts import count_parts, totals
from resnet.models.zoo import ZOO
from resnet.paths import leaf_paths
from resnet.runtime.devices import make_mesh
from resnet.training.finetune import begin
from resnet.training.schedules import make_schedule
from resnet.training.trainer import make_trainer

ROOT = Path(__file__).parents[1]
RECIPES = sorted((ROOT / "configs").glob("*.py"))
NAMES = [path.stem for path in RECIPES]


@functools.cache
def recipe(name: str) -> Config:
    """The checked config of a recipe; not to be changed."""
    return load_config(ROOT / "configs" / f"{name}.py")


def tiny_twin(name: str) -> Config:
    """The recipe on 64 synthetic images with a block of its kind, 4 channels wide."""
    config = load_config(ROOT / "configs" / f"{name}.py")
    config.data.name, config.data.dir, config.data.image_size = "synthetic", "", 0
    config.data.random_resized_crop = config.data.eval_crop = 0.0
    config.data.eval_size = 0
    config.data.classes, config.data.mean, config.data.std = (), (), ()
    config.data.train_limit = 64
    config.model.family, config.model.blocks, config.model.width = "chain", (1,), 0.25
    config.model.ghost_batch = min(config.model.ghost_batch, 2)
    config.train.batch_size, config.train.ema_every = 8, 1
    return config


def test_the_recipes_of_the_papers_are_there():
    cifar10 = {"cifar10_resnet", "cifar10_resnet110"}
    others = {"digits", "image_folder", "cifar10_preact164", "cifar10_wrn16_4", "cifar10_wrn28_10"}
    assert set(NAMES) >= cifar10 | others


def test_a_recipe_that_is_gone_names_its_heir():
    with pytest.raises(InputError, match=r"resnet56.py' does not exist; .* did you mean `cifar10_resnet`"):
        load_config(ROOT / "configs" / "cifar10_resnet56.py")


@pytest.mark.parametrize("path", RECIPES, ids=NAMES)
def test_a_recipe_is_short_and_tells_result_hardware_and_command(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 30
    docstring = ast.get_docstring(ast.parse(text)) or ""
    commands = (f"train.py --config=configs/{path.name} --workdir=", "analyze.py --question=")
    assert any(f"Command: python scripts/{command}" in docstring for command in commands)
    assert "Expected: " in docstring and "Hardware: " in docstring


@pytest.mark.thorough
@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_describes_a_net(name):
    side = recipe(name).data.image_size or 32
    parameters, macs = totals(count_parts(recipe(name).model, 10, (side, side, 3)))
    assert 0 < parameters < macs


OWN = {"chain", "cifar10_fast", "digits_grammar", "digits_low", "digits_small", "fashion_small"}


@pytest.mark.thorough
@pytest.mark.parametrize("name", sorted({*NAMES} - OWN))
def test_the_net_of_a_recipe_counts_as_the_published_one(name):
    """Multiply-accumulates tell where the stride of a bottleneck is."""
    model = recipe(name).model
    alike = [
        net for net in ZOO.values() if (net.config.depth, net.config.branch) == (model.depth, model.branch)
    ]
    assert any(
        totals(count_parts(model, *shape)) == totals(count_parts(net.config, *shape))
        for net in alike
        for shape in [(net.num_outputs, net.image_shape)]
    )


def published() -> list[dict[str, str]]:
    """configs/published.csv: what the sources of a recipe say of its fields, and "expected", its result."""
    with open(ROOT / "configs" / "published.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_each_value_of_the_sources_is_that_of_the_recipe():
    for row in published():
        found, value = field_values(recipe(row["config"])).get(row["field"]), row["value"]
        if row["field"] == "expected":
            docstring = ast.get_docstring(ast.parse((ROOT / "configs" / f"{row['config']}.py").read_text()))
            assert f"{float(value):g} %" in (docstring or ""), row
        else:
            assert found == eval(value, {}), row  # a literal, or a quotient of two
        assert row["source"]


def test_the_recipes_for_imagenet_have_their_values_from_sources():
    with_sources = {row["config"] for row in published()}
    assert with_sources >= {name for name in NAMES if name.startswith(("imagenet_resn", "imagenet_rsb"))}
    assert with_sources <= set(NAMES)


# He 2015, section 4.2; Zagoruyko 2016, section 3: the steps at which the papers change the rate.
@pytest.mark.parametrize(
    ("name", "steps_per_epoch", "rates"),
    [
        ("cifar10_resnet", 351, {0: 0.1, 31_999: 0.1, 32_000: 0.01, 48_000: 0.001}),
        ("cifar10_resnet110", 351, {0: 0.01, 399: 0.01, 400: 0.1, 32_000: 0.01}),
        ("cifar10_wrn28_10", 390, {0: 0.1, 60 * 390: 0.02, 120 * 390: 0.004, 160 * 390: 0.0008}),
    ],
)
def test_a_recipe_has_the_learning_rates_of_its_paper(name, steps_per_epoch, rates):
    config = recipe(name)
    counts = {"batch_size": config.train.batch_size, "steps_per_epoch": steps_per_epoch}
    total = parse_duration("train.duration", config.train.duration).steps(**counts)
    schedule = make_schedule(config.schedule, total_steps=total, **counts)
    found = [schedule(jnp.int32(step)) for step in rates]
    np.testing.assert_allclose(found, list(rates.values()), rtol=1e-5)


@functools.cache
def three_steps(config: Config):
    """Parameters before and after three steps, and the last loss; many twins share a config.

    The rate of the first may be 0, and branches that start at 0 hold back gradients for one more.
    """
    trainer = make_trainer(config, load_dataset(config.data), make_mesh(1))
    first = jax.jit(trainer.step.init)(config.seed)
    state = trainer.to_devices([begin(first, trainer.initial)])
    before = jax.device_get(state.params)
    for step in range(3):
        state, metrics = trainer.train()(state, trainer.batch(range(step, step + 1)))
    return before, jax.device_get(state.params), jax.device_get(metrics["loss"])


# A1 and A3 are A2 with other numbers.
TWINS = [
    pytest.param(name, marks=[pytest.mark.slow] if name in ("imagenet_rsb_a1", "imagenet_rsb_a3") else [])
    for name in NAMES
]


@pytest.mark.thorough
@pytest.mark.parametrize("name", TWINS)
def test_a_tiny_twin_of_a_recipe_steps(name):
    before, after, loss = three_steps(tiny_twin(name))
    assert np.isfinite(loss).all()
    freeze = recipe(name).freeze
    for path, a, b in zip(leaf_paths(before), *map(jax.tree.leaves, (before, after)), strict=True):
        assert (a != b).any() != bool(freeze and re.search(freeze, path)), path
