"""Losses and scores: hand-computed values, and a dead net at chance."""

import jax.numpy as jnp
import numpy as np
import pytest

from resnet.errors import InputError
from resnet.training.losses import check_output, example_losses, example_scores

LOGITS = jnp.array([[2.0, 0.0, -1.0], [0.0, 0.0, 0.0]])
LABELS = jnp.array([0, 2])


def test_softmax_cross_entropy():
    probabilities = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
    expected = -np.log(probabilities[np.arange(2), LABELS])
    np.testing.assert_allclose(example_losses(LOGITS, LABELS, output="softmax"), expected, rtol=1e-6)


def test_smoothing_mixes_in_the_mean_over_classes():
    plain, smooth = (example_losses(LOGITS, LABELS, output="softmax", smoothing=s) for s in (0.0, 0.3))
    uniform = sum(example_losses(LOGITS, jnp.full(2, c), output="softmax") for c in range(3)) / 3
    np.testing.assert_allclose(smooth, 0.7 * plain + 0.3 * uniform, rtol=1e-6)


def test_sigmoid_and_squared_error():
    np.testing.assert_allclose(example_losses(LOGITS, LABELS, output="sigmoid")[1], 3 * np.log(2), rtol=1e-6)
    np.testing.assert_allclose(example_losses(jnp.array([[3.0]]), jnp.array([1.0]), output="identity"), [2.0])


def test_a_dead_net_scores_chance():
    labels = jnp.arange(10)
    dead = example_scores(jnp.zeros((10, 10)), labels, 1.0)
    assert dead["top1"].sum() == 1
    assert dead["top5"].sum() == 5


def test_regression_error_is_in_its_unit():
    scores = example_scores(jnp.array([[0.5]]), jnp.array([0.25]), target_scale=180.0)
    np.testing.assert_allclose(scores["mae"], [45.0])


def test_regression_needs_the_identity():
    with pytest.raises(InputError, match=r"`model.output` must be identity"):
        check_output("softmax", "regression")
