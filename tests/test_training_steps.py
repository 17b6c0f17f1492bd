"""Properties of the steps, on a three-block net and random images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet.config import Config
from resnet.data.datasets import load_dataset
from resnet.training.evaluation import evaluate
from resnet.training.parallel import make_mesh, replicate, unstack
from resnet.training.plan import make_plan
from resnet.training.steps import TrainState, training_images

BATCH = 16


def tiny(**train):
    """A config of seconds."""
    config = Config()
    config.data.name, config.data.train_limit, config.data.shift = "digits", 64, 1
    config.model.blocks, config.model.width = (1, 1, 1), 0.25
    config.train.batch_size, config.train.duration = BATCH, "100 steps"
    for name, value in train.items():
        setattr(config.train, name, value)
    return config


@pytest.fixture(scope="module")
def plan():
    """One device, with moving average."""
    config = tiny(ema=0.9)
    return make_plan(config, load_dataset(config.data), make_mesh(1))


def arrays_of(plan, mesh=None):
    split = plan.dataset.train
    return replicate({"image": split.images, "label": split.labels}, mesh or plan.mesh)


def indices(steps):
    """Of one seed: [1, steps, batch]."""
    generator = np.random.default_rng(0)
    return generator.integers(0, 50, (1, steps, BATCH)).astype(np.int32)


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def one_by_one(plan, state, order):
    arrays, series = arrays_of(plan), []
    for step in range(order.shape[1]):
        state, metrics = plan.train_steps(state, arrays, order[:, step : step + 1])
        series.append(metrics)
    return state, jax.tree.map(lambda *each: np.concatenate(each, axis=1), *series)


def test_k_steps_in_one_call_equal_one_by_one(plan):
    order = indices(5)
    state, metrics = plan.train_steps(plan.start(0), arrays_of(plan), order)
    expected_state, expected_metrics = one_by_one(plan, plan.start(0), order)
    assert_same(state, expected_state)
    assert_same(metrics, expected_metrics)


def test_a_step_changes_all_and_only_what_it_should(plan):
    before = jax.device_get(plan.start(0))
    after, metrics = plan.train_steps(plan.start(0), arrays_of(plan), indices(1))
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


def test_the_loss_falls(plan):
    order = np.tile(indices(1), (1, 20, 1))
    _, metrics = one_by_one(plan, plan.start(0), order)
    assert metrics["loss"][0, -1] < 0.7 * metrics["loss"][0, 0]


def test_seeds_differ_and_repeat(plan):
    first, again, other = (jax.device_get(plan.start(seed).params) for seed in (0, 0, 1))
    assert_same(first, again)
    kernels = [tree["stem"] for tree in (first, other)]
    assert any(not np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, kernels), strict=True))


def test_draws_follow_the_step_and_the_seed(plan):
    images = jnp.asarray(plan.dataset.train.images[:BATCH])

    def prepared(seed, step):
        state = TrainState(jnp.int32(step), jnp.int32(seed), {}, {}, {}, {})
        made, _ = training_images(state, images, task=plan.task, config=plan.config, axis_name=None)
        return np.asarray(made)

    np.testing.assert_array_equal(prepared(0, 3), prepared(0, 3))
    assert not np.array_equal(prepared(0, 3), prepared(0, 4))
    assert not np.array_equal(prepared(0, 3), prepared(1, 3))


def test_the_moving_average(plan):
    before = jax.device_get(plan.start(0))
    after = jax.device_get(plan.train_steps(plan.start(0), arrays_of(plan), indices(1))[0])
    current = {"params": after.params, "batch_stats": after.batch_stats}
    expected = jax.tree.map(lambda old, new: 0.1 * old + 0.9 * new, before.ema, current)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), after.ema, expected)
    assert after.variables is after.ema


def test_evaluation_counts_each_example_once_whatever_the_batch(plan):
    variables, split = plan.start(0).variables, plan.dataset.test[:37]
    each = [evaluate(variables, split, eval_step=plan.eval_step, batch_size=size)[0] for size in (8, 37, 64)]
    assert [metrics["n"] for metrics in each] == [37, 37, 37]
    for metrics in each[1:]:
        assert metrics["top1"] == each[0]["top1"]
        np.testing.assert_allclose(metrics["loss"], each[0]["loss"], rtol=1e-6)


def test_what_is_padded_changes_nothing_not_even_nan(plan):
    variables, split = plan.start(0).variables, plan.dataset.test[:BATCH]
    batch = {"image": split.images, "label": split.labels, "mask": np.ones(BATCH, np.float32)}
    batch["mask"][10:] = 0
    sums = plan.eval_step(variables, batch)
    batch["image"] = split.images.copy()
    batch["image"][10:] = 255
    assert_same(plan.eval_step(variables, batch), sums)
    assert sums["n"] == 10


def test_evaluation_leaves_the_state_alone(plan):
    state = plan.start(0)
    before = jax.device_get(state)
    evaluate(state.variables, plan.dataset.test, eval_step=plan.eval_step, batch_size=BATCH)
    assert_same(state, before)


@pytest.mark.parametrize("ghost_batch", [0, 4])
def test_one_and_two_devices_agree(ghost_batch):
    """Up to the rounding of sums in another order: 1e-4 of the parameters' scale after 3 steps."""
    config = tiny()
    config.model.ghost_batch = ghost_batch
    dataset, order, results = load_dataset(config.data), indices(3), []
    for devices in (1, 2):
        plan = make_plan(config, dataset, make_mesh(devices))
        state, metrics = plan.train_steps(plan.start(0), arrays_of(plan), order)
        sums = evaluate(state.variables, dataset.test, eval_step=plan.eval_step, batch_size=BATCH)
        results.append(jax.device_get((state.params, state.batch_stats, metrics, sums[0]["loss"])))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-4), *results)


@pytest.mark.parametrize("backend, devices", [("cpu", 1), ("cpu", 2), ("gpu", 1)])
def test_seeds_together_equal_each_alone(plan, backend, devices, monkeypatch):
    """To the last bit where each has a device of its own, else up to rounding."""
    order = np.concatenate([indices(3), indices(3)[:, ::-1]])
    with monkeypatch.context() as patch:
        patch.setattr(jax, "default_backend", lambda: backend)  # what is traced, not where it runs
        together = make_plan(plan.config, plan.dataset, make_mesh(devices, seeds=2))
        states, metrics = together.train_steps(together.start(0, 1), arrays_of(together), order)
        found = evaluate(states.variables, plan.dataset.test, eval_step=together.eval_step, batch_size=BATCH)
    for seed, state in enumerate(unstack(states)):
        alone, series = plan.train_steps(plan.start(seed), arrays_of(plan), order[seed][None])
        [expected] = evaluate(alone.variables, plan.dataset.test, eval_step=plan.eval_step, batch_size=BATCH)
        mine = {name: np.asarray(value[seed]) for name, value in metrics.items()}
        pairs = (state, unstack(alone)[0]), (mine, unstack(series)[0]), (found[seed], expected)
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
