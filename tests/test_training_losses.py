"""Losses and scores: hand-computed values, and a dead net at chance."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from resnet.errors import InputError
from resnet.training.losses import LOSSES, check_output, check_threshold, example_losses, example_scores

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
    np.testing.assert_allclose(example_losses(LOGITS, LABELS, output="sigmoid")[1], np.log(2), rtol=1e-6)
    np.testing.assert_allclose(example_losses(jnp.array([[3.0]]), jnp.array([1.0]), output="identity"), [2.0])


def test_mixed_targets_are_smoothed_first_and_cut_last():
    """As in timm: one-hot with smoothing inside, mixed with the partner's, and 1 above the threshold."""
    share, labels = jnp.array([0.7, 0.7]), jnp.array([0, 2])
    targets = np.array([[0.7, 0.0, 0.3], [0.3, 0.0, 0.7]]) * 0.9 + 0.1 / 3
    soft = example_losses(LOGITS, labels, output="softmax", smoothing=0.1, share=share)
    log = LOGITS - np.log(np.exp(LOGITS).sum(-1, keepdims=True))
    np.testing.assert_allclose(soft, -(targets * log).sum(-1), rtol=1e-5)
    cut = example_losses(LOGITS, labels, output="sigmoid", share=share, threshold=0.2)
    both = np.array([[1.0, 0.0, 1.0], [1.0, 0.0, 1.0]])
    expected = np.log1p(np.exp(LOGITS)) - both * LOGITS
    np.testing.assert_allclose(cut, expected.mean(-1), rtol=1e-5)
    plain = example_losses(LOGITS, labels, output="softmax", share=jnp.ones(2))
    np.testing.assert_array_equal(plain, example_losses(LOGITS, labels, output="softmax"))


@pytest.mark.parametrize("output", LOSSES)
def test_every_loss_is_zero_at_its_target_alone(output):
    logits, labels = (LOGITS, LABELS) if output != "identity" else (LOGITS[:, :1], jnp.array([1.0, 0.0]))
    losses = example_losses(logits, labels, output=output)
    assert losses.shape == (2,) and (losses >= 0).all() and losses.dtype == jnp.float32
    targets = jnp.eye(3)[LABELS] * 40 - 20 if output != "identity" else labels[:, None]
    np.testing.assert_allclose(example_losses(targets, labels, output=output), 0.0, atol=1e-6)


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


def test_a_threshold_lies_between_the_targets():
    for threshold in (0.011, 0.5, 0.909):  # with smoothing 0.1 ten classes have targets 0.01 and 0.91
        check_threshold(threshold, 0.1, 10)
        targets = optax.smooth_labels(jnp.eye(10), 0.1) > threshold
        assert (targets == jnp.eye(10)).all()
    check_threshold(0.0, 0.1, 10)
    # At 0.01 itself, mixed targets that are rounded up would all be targets of 1.
    for threshold in (0.009, 0.01, 0.91, 0.95):
        with pytest.raises(InputError, match="`train.target_threshold` must be above 0.01 and below 0.91"):
            check_threshold(threshold, 0.1, 10)
