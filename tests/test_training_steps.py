"""Properties of the steps, on a three-block net and random images."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet.config import Config
from resnet.data.batches import Resident
from resnet.data.datasets import load_dataset
from resnet.runs.task import Task
from resnet.runtime import devices as runtime
from resnet.runtime.devices import each_seed, make_mesh
from resnet.training.config import TrainConfig
from resnet.training.evaluation import eval_step, evaluate, predict
from resnet.training.step import Step, TrainState, accumulated, moving_average
from resnet.training.trainer import make_trainer

BATCH = 16


def tiny(**train):
    """A config of seconds."""
    config = Config()
    config.data.name, config.data.train_limit, config.data.random_crop = "digits", 64, 1
    config.model.blocks, config.model.width = (1, 1, 1), 0.25
    config.train.batch_size, config.train.duration = BATCH, "100 steps"
    for name, value in train.items():
        setattr(config.train, name, value)
    return config


@pytest.fixture(scope="module")
def trainer():
    """One device, with moving average."""
    config = tiny(ema=0.9)
    return make_trainer(config, load_dataset(config.data), make_mesh(1))


def places(steps):
    """Of some batches: [steps, batch]."""
    generator = np.random.default_rng(0)
    return generator.integers(0, 50, (steps, BATCH)).astype(np.int32)


def start(trainer, seed=0):
    return trainer.to_devices([trainer.step.init(seed)])


def at(step, seed=0, ema=None):
    """A state at this step, of no net."""
    return TrainState(jnp.int32(step), jnp.int32(seed), {}, {}, {}, ema or {})


def without_net(axis=None, **train):
    """A step of these settings, for what is drawn beside the net."""
    task = Task("classification", (4, 4, 3), ("a", "b"), np.zeros(3, np.float32), np.ones(3, np.float32))
    return Step(None, optax.identity(), jnp.float32, task, (), TrainConfig(**train), axis=axis)


def evaluated(trainer, variables, split, size=BATCH):
    return evaluate(variables, split, program=trainer.eval_program, batch_size=size)


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def one_by_one(trainer, state, order):
    series = []
    for batch in order:
        state, metrics = trainer.train()(state, Resident(trainer.resident, batch))
        series.append(jax.device_get(metrics))
    return state, jax.tree.map(lambda *each: np.stack(each), *series)


@pytest.mark.thorough
def test_k_steps_in_one_call_equal_one_by_one(trainer):
    order = places(5)
    state, metrics = trainer.train(5)(start(trainer), Resident(trainer.resident, order))
    expected_state, expected_metrics = one_by_one(trainer, start(trainer), order)
    assert_same(state, expected_state)
    assert_same(metrics, expected_metrics)


@pytest.mark.thorough
def test_a_step_changes_all_and_only_what_it_should(trainer):
    before = jax.device_get(start(trainer))
    after, metrics = trainer.train()(start(trainer), Resident(trainer.resident, places(1)[0]))
    assert after.step == 1 and after.seed == before.seed
    for field in ("params", "batch_stats", "ema"):
        pairs = zip(
            jax.tree.leaves(getattr(before, field)),
            jax.tree.leaves(getattr(after, field)),
            strict=True,
        )
        assert all(not np.array_equal(x, y) for x, y in pairs), field
    assert set(metrics) == {"loss", "top1", "top5", "grad_norm", "learning_rate"}
    assert {leaf.dtype for leaf in jax.tree.leaves(after.params)} == {np.dtype("float32")}


def test_the_loss_falls(trainer):
    _, metrics = one_by_one(trainer, start(trainer), np.tile(places(1), (20, 1)))
    assert metrics["loss"][-1] < 0.7 * metrics["loss"][0]


def test_seeds_differ_and_repeat(trainer):
    first, again, other = (jax.device_get(start(trainer, seed).params) for seed in (0, 0, 1))
    assert_same(first, again)
    kernels = [tree["stem"] for tree in (first, other)]
    assert any(not np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, kernels), strict=True))


def test_draws_follow_the_step_and_the_seed(trainer):
    images = jnp.asarray(trainer.dataset.train.images[:BATCH])

    def prepared(seed, step):
        state = TrainState(jnp.int32(step), jnp.int32(seed), {}, {}, {}, {})
        made, _ = trainer.step.augmented(state, images)
        return np.asarray(made)

    np.testing.assert_array_equal(prepared(0, 3), prepared(0, 3))
    assert not np.array_equal(prepared(0, 3), prepared(0, 4))
    assert not np.array_equal(prepared(0, 3), prepared(1, 3))


def test_the_moving_average(trainer):
    before = jax.device_get(start(trainer))
    batch = Resident(trainer.resident, places(1)[0])
    after = jax.device_get(trainer.train()(start(trainer), batch)[0])
    current = {"params": after.params, "batch_stats": after.batch_stats}
    expected = jax.tree.map(lambda old, new: 0.1 * old + 0.9 * new, before.ema, current)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), after.ema, expected)
    assert after.variables is after.ema


@pytest.mark.parametrize(
    ("step", "every", "kept"), [(0, 1, 0.1), (8, 1, 0.5), (999, 1, 0.9), (998, 3, 0.9**3), (997, 3, 1.0)]
)
def test_the_decay_of_the_average_grows_up_to_the_configs(step, every, kept):
    """A share of 1 of the old average is kept where no update of it is due."""
    old, new = {"params": jnp.float32(1)}, {"params": jnp.float32(2)}
    settings = TrainConfig(ema=0.9, ema_every=every)
    average = moving_average(at(step, ema=old), new, settings)["params"]
    np.testing.assert_allclose(average, kept * 1 + (1 - kept) * 2, rtol=1e-6)


def test_noise_of_the_net_follows_the_seed_the_step_and_the_device():
    step = without_net(axis="devices")

    def keys(*arguments):
        augmented = lambda images: step.augmented(at(*arguments), images)[1]  # noqa: E731
        made = jax.vmap(augmented, axis_name="devices")(np.zeros((2, 2, 4, 4, 3), np.uint8))
        return [tuple(key) for key in np.asarray(jax.random.key_data(made))]

    assert keys(3, 0) == keys(3, 0)
    assert len({*keys(3, 0), *keys(4, 0), *keys(3, 1)}) == 6


@pytest.mark.parametrize("field", ("mixup", "cutmix"))
def test_each_step_and_each_seed_mixes_in_its_own_way(field):
    examples = {"image": jax.random.normal(jax.random.key(0), (4, 16, 16, 1)), "label": jnp.arange(4)}
    step = without_net(**{field: 1.0})
    images = [step.mixed(at(*each), examples)[0]["image"] for each in ((3, 0), (3, 0), (4, 0), (3, 1))]
    np.testing.assert_array_equal(images[0], images[1])
    assert len(np.unique(images, axis=0)) == 3


def test_an_answer_is_scored_by_the_label_that_has_the_larger_share():
    labels = jnp.arange(16)
    examples = {"image": jnp.zeros((16, 4, 4, 1)), "label": labels}
    mixed, scored = without_net(mixup=1.0, mix_each="pair").mixed(at(0), examples)
    own = np.asarray(mixed["share"]) >= 0.5
    assert 0 < own.sum() < 16
    np.testing.assert_array_equal(scored, np.where(own, labels, labels ^ 1))  # 2k and 2k + 1 are partners


def test_parts_of_a_batch_follow_each_other_with_noise_of_their_own():
    def gradient(params, batch_stats, examples, key):
        x, noise = examples["x"], jnp.full(2, jax.random.normal(key))
        return (x.mean(), (jnp.stack([x, noise], axis=1), 10 * batch_stats + x[0])), params * x.sum()

    x, params, before = jnp.arange(6.0), jnp.float32(2), jnp.float32(0)
    found = accumulated(gradient, 3, params, before, {"x": x}, jax.random.key(0))
    (loss, (logits, statistics)), grads = found
    assert (loss, statistics, grads) == (2.5, 24, 2 * (1 + 5 + 9) / 3)
    np.testing.assert_array_equal(logits[:, 0], x)
    assert len(np.unique(logits[:, 1])) == 3


def test_evaluation_counts_each_example_once_whatever_the_batch(trainer):
    variables, split = start(trainer).variables, trainer.dataset.test[:37]
    each = [evaluated(trainer, variables, split, size) for size in (8, 37, 64)]
    assert [metrics["n"] for metrics in each] == [37, 37, 37]
    for metrics in each[1:]:
        assert metrics["top1"] == each[0]["top1"]
        np.testing.assert_allclose(metrics["loss"], each[0]["loss"], rtol=1e-6)


@pytest.mark.thorough
def test_an_evaluation_can_average_mirror_images(trainer):
    """Logits are the mean over an image and its mirror image: both images give the same."""
    start_ = start(trainer)
    images = jnp.asarray(trainer.dataset.test.images[:5])
    plain, mirrored, both, turned = (
        predict(start_.variables, images, model=trainer.step.model, task=trainer.task, flip=flip)
        for images, flip in (
            (images, False),
            (images[:, :, ::-1], False),
            (images, True),
            (images[:, :, ::-1], True),
        )
    )
    np.testing.assert_allclose(both, (plain + mirrored) / 2, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(both, turned)
    assert (both != plain).any()


def test_what_is_padded_changes_nothing_not_even_nan(trainer):
    variables, split = start(trainer).variables, trainer.dataset.test[:BATCH]
    step = jax.jit(partial(eval_step, model=trainer.step.model, task=trainer.task, by_class=True))
    images, kept = split.images.astype(np.float32), np.arange(BATCH) < 10
    batch = {"label": split.labels, "mask": kept.astype(np.float32)}
    clean, spoiled = (
        step(variables, batch | {"image": np.where(kept[:, None, None, None], images, padding)})
        for padding in (images, np.float32(np.nan))
    )
    assert_same(spoiled, clean)
    assert clean["n"] == clean["of"].sum() == 10 and np.isfinite(clean["loss"])


@pytest.mark.thorough
def test_evaluation_leaves_the_state_alone(trainer):
    state = start(trainer)
    before = jax.device_get(state)
    evaluated(trainer, state.variables, trainer.dataset.test)
    assert_same(state, before)


@pytest.mark.thorough
@pytest.mark.parametrize("ghost_batch", [0, 4])
def test_one_and_two_devices_agree(ghost_batch):
    """Up to the rounding of sums in another order: 1e-4 of the parameters' scale after 3 steps."""
    config = tiny()
    config.model.ghost_batch = ghost_batch
    dataset, order, results = load_dataset(config.data), places(3), []
    for devices in (1, 2):
        trainer = make_trainer(config, dataset, make_mesh(devices))
        state, metrics = trainer.train(3)(trainer.start(), Resident(trainer.resident, order))
        loss = evaluated(trainer, state.variables, dataset.test)["loss"]
        results.append(jax.device_get((state.params, state.batch_stats, metrics, loss)))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4), *results)


@pytest.mark.thorough
@pytest.mark.parametrize("backend, devices", [("cpu", 1), ("cpu", 2), ("gpu", 1)])
def test_seeds_together_equal_each_alone(trainer, backend, devices, monkeypatch):
    """To the last bit where each has a device of its own, else up to rounding."""
    order = np.stack([places(3), places(3)[::-1]])
    with monkeypatch.context() as patch:
        patch.setattr(runtime, "platform", lambda mesh: backend)  # what is traced, not where it runs
        together = make_trainer(trainer.config, trainer.dataset, make_mesh(devices, seeds=2), (0, 1))
        states, metrics = together.train(3)(together.start(), Resident(together.resident, order))
        found = together.evaluate(states.variables, trainer.dataset.test, lambda: False)
    pairs_of_seeds = zip(together.to_host(states), together.to_host(metrics), strict=True)
    for seed, (state, mine) in enumerate(pairs_of_seeds):
        batches = Resident(trainer.resident, order[seed])
        alone, series = jax.device_get(trainer.train(3)(start(trainer, seed), batches))
        expected = evaluated(trainer, alone.variables, trainer.dataset.test)
        pairs = (state, alone), (mine, series), (found[seed], expected)
        exact = {"rtol": 0, "atol": 0} if devices == 2 else {"rtol": 1e-3, "atol": 1e-5}
        for x, y in pairs:
            jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **exact), x, y)  # noqa: B023


def test_seeds_go_before_images_to_the_devices():
    assert [tuple(make_mesh(2, seeds).shape.values()) for seeds in (1, 2, 3, 4)] == [
        (1, 2),
        (2, 1),
        (1, 2),
        (2, 1),
    ]


def test_a_devices_only_seed_is_run_without_its_axis():
    seen = []
    each_seed(lambda x, y: seen.append((x.shape, y.shape)) or x, make_mesh(1))(
        np.zeros((1, 3)), np.zeros((1, 4))
    )
    assert seen == [((3,), (4,))]
