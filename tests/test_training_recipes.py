"""What today's recipes add to a step, on tiny nets: the same numbers on any devices, resident or streamed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet.config import check_config, replaced
from resnet.data.batches import Delivered, Resident
from resnet.data.datasets import load_dataset
from resnet.errors import InputError
from resnet.models.scanning import STACKED
from resnet.runtime.devices import make_mesh
from resnet.training.step import TrainState, sharpness_aware
from resnet.training.trainer import make_trainer
from tests.studies_cases import tiny_config

CASES = {
    "both mixings, a part at a time": {
        "train.mixup": 0.2,
        "train.cutmix": 1.0,
        "train.accumulate": 2,
        "train.ema": 0.9,
        "train.ema_every": 2,
    },
    "pairs, a policy, erasing": {
        "train.cutmix": 1.0,
        "train.mix_each": "pair",
        "train.label_smoothing": 0.1,
        "data.augmentation": ("timm_rand_augment 2 7 0.5", "random_erasing 0.5 pixel"),
        "optimizer.name": "lamb",
    },
    "sharpness, repeats, mirrored in turn, smaller at first": {
        "train.sam": 0.05,
        "data.repeats": 2,
        "data.alternate_flip": True,
        "train.smaller_until": (("2 steps", 6),),
        "train.mixup": 0.2,
        "train.accumulate": 2,
    },
}


def config_of(changes):
    net = {"model.family": "chain", "model.blocks": (1,), "model.ghost_batch": 4}
    config = replaced(tiny_config(), net | changes)
    check_config(config)
    return config


def trainer_of(changes, devices=1, seeds=()):
    config = config_of(changes)
    return make_trainer(config, load_dataset(config.data), make_mesh(devices, len(seeds) or 1), seeds)


def run(trainer, first, last, state=None, per_call=1):
    """(the state, the losses) after the steps from first to last."""
    state, losses = state or trainer.start(), []
    for step in range(first, last, per_call):
        batch = trainer.batch(range(step, step + per_call))
        state, metrics = trainer.train(per_call, trainer.intervals.side(step))(state, batch)
        losses.append(jax.device_get(metrics["loss"]))
    return state, np.ravel(losses)


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, *map(jax.device_get, (a, b)))


@pytest.fixture(scope="module", params=CASES)
def case(request):
    """(the changes, a trainer on one device, its state and losses after four steps)."""
    trainer = trainer_of(CASES[request.param])
    return CASES[request.param], trainer, *run(trainer, 0, 4)


@pytest.mark.thorough
def test_two_devices_train_the_same_net(case):
    changes, _, state, losses = case
    found, others = run(trainer_of(changes, devices=2), 0, 4)
    np.testing.assert_allclose(others, losses, rtol=1e-4)
    for a, b in zip(*map(jax.tree.leaves, jax.device_get((found.params, state.params))), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.thorough
def test_going_on_from_the_host_gives_the_same_bits(case):
    _, trainer, state, losses = case
    halfway, _ = run(trainer, 0, 2)
    again, rest = run(trainer, 2, 4, trainer.to_devices(trainer.to_host(halfway)))
    assert_same(again, state)
    np.testing.assert_array_equal(rest, losses[2:])


@pytest.mark.thorough
def test_steps_in_one_call_and_delivered_batches_give_the_same_bits(case):
    _, trainer, state, losses = case
    together, same = run(trainer, 0, 4, per_call=2)
    assert_same(together, state)
    np.testing.assert_array_equal(same, losses)
    start, batch = trainer.start(), trainer.first_images(0, 0, 16)
    streamed = Delivered({name: jnp.asarray(array) for name, array in batch.items()})
    first, _ = jax.jit(trainer.step.train)(start, streamed)
    assert_same(first, trainer.train()(trainer.start(), trainer.batch(range(1)))[0])


@pytest.mark.thorough
def test_seeds_together_train_the_same_nets(case):
    changes, _, _, losses = case
    _, both = run(trainer_of(changes, seeds=(0, 1)), 0, 4)
    both = both.reshape(-1, 2)
    np.testing.assert_allclose(both[:, 0], losses, rtol=1e-3)
    assert (both[:, 0] != both[:, 1]).all()


@pytest.mark.thorough
def test_scanned_blocks_train_the_same_net():
    changes = {"model.blocks": (3,), "train.sam": 0.05, "train.mixup": 0.2, "train.accumulate": 2}
    plain, losses = run(trainer_of(changes | {"model.scan_blocks": False}), 0, 2)
    scanned, same = run(trainer_of(changes | {"model.scan_blocks": True}), 0, 2)
    assert STACKED in scanned.params["stage1"] and STACKED not in plain.params["stage1"]
    np.testing.assert_allclose(same, losses, rtol=1e-3)


@pytest.mark.thorough
def test_parts_have_the_gradient_of_ghost_batches():
    """Gradients of parts, averaged, are those of a batch whose norms see the same parts."""
    plain = trainer_of({"optimizer.momentum": 0.0})
    parted = trainer_of({"optimizer.momentum": 0.0, "train.accumulate": 4})
    params = [run(trainer, 0, 1)[0].params for trainer in (plain, parted)]
    for a, b in zip(*map(jax.tree.leaves, jax.device_get(params)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.thorough
def test_an_average_every_few_steps_has_the_decay_of_as_many():
    trainer = trainer_of({"train.ema": 0.5, "train.ema_every": 2})
    first, _ = run(trainer, 0, 1)
    assert_same(first.ema, trainer.start().ema)
    second, _ = run(trainer, 0, 2)
    kernel, start = (state.ema["params"]["stem"]["conv1"]["kernel"] for state in (second, trainer.start()))
    expected = 0.1 * start + 0.9 * second.params["stem"]["conv1"]["kernel"]  # the decay starts at 1 / 10
    np.testing.assert_allclose(kernel, expected, rtol=1e-4, atol=1e-6)


def program_of(changes):
    trainer = trainer_of(changes)
    return str(jax.make_jaxpr(trainer.step.train)(trainer.shapes, Resident(trainer.resident, np.arange(16))))


@pytest.fixture(scope="module")
def programs():
    """Those that were seen, first of all the plain one."""
    return {program_of({})}


@pytest.mark.thorough
@pytest.mark.parametrize(
    "changes",
    [
        {"train.mixup": 0.2},
        {"train.mixup": 0.3},
        {"train.cutmix": 1.0},
        {"train.mixup": 0.2, "train.cutmix": 1.0},
        {"train.mixup": 0.2, "train.cutmix": 1.0, "train.mix_switch": 0.25},
        {"train.mixup": 0.2, "train.mix_probability": 0.5},
        {"train.mixup": 0.2, "train.mix_each": "pair"},
        {"train.label_smoothing": 0.1},
        {"train.accumulate": 2},
        {"train.sam": 0.05},
        {"train.sam": 0.1},
        {"data.alternate_flip": True},
        {"train.ema": 0.9, "train.ema_every": 3},
        {"model.output": "sigmoid"},
        {"model.output": "sigmoid", "train.target_threshold": 0.2},
        {"optimizer.name": "lars", "optimizer.trust": 0.1},
        {"optimizer.name": "lars", "optimizer.adapt": "kernels"},
    ],
)
def test_each_field_changes_the_program(changes, programs):
    program = program_of(changes)
    assert program not in programs
    programs.add(program)


@pytest.mark.thorough
def test_what_is_off_adds_nothing_to_the_program():
    program = program_of({})
    # A choice by platform is made before anything is compiled.
    assert program.count("cond[") == program.count("branches_platforms=")
    all_on = program_of(CASES["pairs, a policy, erasing"] | {"train.accumulate": 2})
    for operation in ("scan[", "random_gamma", "scatter"):
        assert operation in all_on and operation not in program
    shapes = {"train.mix_switch": 0.3, "train.mix_each": "pair", "train.ema_every": 5}
    assert program_of(shapes) == program


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.mixup": -1.0}, "`train.mixup` must be at least 0"),
        ({"train.mix_switch": 2.0}, "`train.mix_switch` must be between 0 and 1"),
        ({"train.mix_each": "element"}, "`train.mix_each` must be one of batch, pair"),
        ({"train.sam": -0.1}, "`train.sam` must be at least 0"),
        ({"train.smaller_until": (("soon", 6),)}, "`train.smaller_until` must be an amount and a unit"),
        ({"init_whitened": -1}, "`init_whitened` must be at least 0"),
        ({"init_whitened": 9, "init_from": "x"}, "`init_whitened` must be 0 with `init_from`"),
        ({"train.accumulate": 3}, "`train.accumulate` must divide the 16 images"),
        ({"train.mixup": 0.2, "train.batch_size": 5, "model.ghost_batch": 0}, "need pairs: the 5 images"),
        ({"train.accumulate": 8}, "`model.ghost_batch` must divide the 16 images .* in 8 parts each"),
        ({"train.target_threshold": 0.2}, "`train.target_threshold` must be 0 unless"),
        (
            {"data.augmentation": ("auto_augment mnist",)},
            "auto_augment policy` must be one of imagenet, cifar10",
        ),
        ({"data.augmentation": ("rand_augment 2 31",)}, "rand_augment magnitude` must be between 0 and 30"),
        (
            {"data.augmentation": ("trivial_augment cubic",)},
            "interpolation` must be one of nearest, bilinear",
        ),
        ({"data.augmentation": ("random_erasing 2",)}, "random_erasing probability` must be between 0 and 1"),
    ],
)
def test_what_cannot_work_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        config_of(changes)


def test_sam_follows_the_gradient_of_the_neighbour():
    """On a x^2 / 2 the neighbour along the gradient lies further out, where it is steeper."""
    slopes = jnp.array([1.0, 3.0])
    gradient = jax.value_and_grad(lambda x, _: (0.5 * (slopes * x**2).sum(), "more"), has_aux=True)
    x = jnp.array([2.0, -1.0])
    (loss, more), found = sharpness_aware(gradient, 0.5, None, x, None)
    assert loss == 3.5 and more == "more"
    along = np.array([2.0, -3.0]) / np.sqrt(13)
    np.testing.assert_allclose(found, slopes * (x + 0.5 * along), rtol=1e-5)


def test_each_image_is_mirrored_in_every_other_epoch():
    trainer = trainer_of({"data.alternate_flip": True})  # four steps an epoch
    images = {"image": jnp.asarray(trainer.dataset.train.images), "place": jnp.arange(64)}

    def mirrored(step, seed=0):
        shown = trainer.step.shown(TrainState(jnp.int32(step), jnp.int32(seed), {}, {}, {}, {}), images)
        same, turned = (
            (shown == each).all((1, 2, 3)) for each in (images["image"], images["image"][:, :, ::-1])
        )
        assert (same | turned).all()
        return np.asarray(turned)

    first = mirrored(0)
    assert 16 < first.sum() < 48
    np.testing.assert_array_equal([mirrored(step) for step in (3, 8)], [first, first])
    np.testing.assert_array_equal(mirrored(4), ~first)
    assert (mirrored(0, seed=1) != first).any()


@pytest.mark.thorough
def test_an_images_draws_follow_its_place():
    """Copies of one image come out different, and a part of a batch as in the whole."""
    trainer = trainer_of({"data.augmentation": ("random_erasing 1 pixel",)})
    state = TrainState(jnp.int32(3), jnp.int32(0), {}, {}, {}, {})
    images = jnp.asarray(trainer.dataset.train.images[:1].repeat(16, axis=0))
    made, part = (jax.jit(trainer.step.augmented)(state, each)[0] for each in (images, images[:8]))
    assert len(np.unique(made, axis=0)) == 16
    np.testing.assert_array_equal(part, made[:8])
