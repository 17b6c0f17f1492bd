"""Losses per example and the scores beside them, all in float32."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from resnet.data.augmentation.mixing import mixed
from resnet.errors import InputError

LabelArray = Int[Array, " b"] | Float[Array, " b"]


def _targets(
    logits: Float[Array, "b outputs"],
    labels: LabelArray,
    smoothing: float,
    share: Float[Array, " b"] | None,
    threshold: float,
) -> Array:
    """What the outputs should be: classes, one-hot, smoothed, mixed and cut, in this order; or the values."""
    _check_labels(logits, labels)
    if jnp.issubdtype(labels.dtype, jnp.floating):
        targets = labels[:, None]
    else:
        targets = jax.nn.one_hot(labels, logits.shape[-1])
        targets = optax.smooth_labels(targets, smoothing) if smoothing else targets
    targets = targets if share is None else mixed(targets, share)
    return (targets > threshold).astype(jnp.float32) if threshold else targets


def _check_labels(logits: Float[Array, "b outputs"], labels: LabelArray) -> None:
    """Checks that each row of the logits has one label: a class number, or a real number for a single output.

    Raises InputError for others, such as one-hot labels.
    """
    real = jnp.issubdtype(labels.dtype, jnp.floating)
    if labels.shape != logits.shape[:1] or (real and logits.shape[1:] != (1,)):
        raise InputError(
            "labels must be whole numbers from 0, one for each row of the logits, or a real number for each "
            f"row of a net with one output; got {labels.dtype} labels of shape {labels.shape} and logits of "
            f"shape {logits.shape}"
        )


def check_threshold(threshold: float, smoothing: float, classes: int) -> None:
    """Raises InputError unless a threshold separates the targets of right and wrong classes; 0 is none."""
    least = smoothing / classes
    most = 1 - smoothing + least
    if threshold and not least < threshold < most:
        raise InputError(
            f"`train.target_threshold` must be above {least:g} and below {most:g}, the targets of "
            f"{classes} classes with `train.label_smoothing` {smoothing:g}; got {threshold:g}"
        )


def sigmoid_cross_entropy(logits: Array, targets: Array) -> Float[Array, " b"]:
    """The mean of the outputs' binary cross-entropies, in nats."""
    return optax.sigmoid_binary_cross_entropy(logits, targets).mean(-1)


def squared_error(logits: Array, targets: Array) -> Float[Array, " b"]:
    """Half the squared distance of the outputs to the targets."""
    return 0.5 * jnp.square(logits - targets).sum(-1)


LOSSES = {
    "softmax": optax.softmax_cross_entropy,  # -sum of targets * log softmax(logits), in nats
    "sigmoid": sigmoid_cross_entropy,
    "identity": squared_error,
}


def example_losses(
    logits: Float[Array, "b outputs"],
    labels: LabelArray,
    *,
    output: str,
    smoothing: float = 0.0,
    share: Float[Array, " b"] | None = None,
    threshold: float = 0.0,
) -> Float[Array, " b"]:
    """The loss of each example for a net whose `model.output` is `output`.

    `share` is what mixed examples have of their own labels; the rest is their partners'. With a threshold,
    targets above it become 1 and the others 0.
    """
    logits = logits.astype(jnp.float32)
    return LOSSES[output](logits, _targets(logits, labels, smoothing, share, threshold))


def example_scores(
    logits: Float[Array, "b outputs"], labels: LabelArray, target_scale: float
) -> dict[str, Float[Array, " b"]]:
    """What each example adds to a score: top1 and top5 (0 or 1), or mae (in the target's unit)."""
    _check_labels(logits, labels)
    if jnp.issubdtype(labels.dtype, jnp.floating):
        return {"mae": jnp.abs(logits[:, 0] - labels) * target_scale}
    # Ranks by position among equals, so that a dead net, whose logits are all equal, scores chance.
    _, best = jax.lax.top_k(logits, min(5, logits.shape[-1]))
    hits = (best == labels[:, None]).astype(jnp.float32)
    return {"top1": hits[:, 0], "top5": hits.sum(-1)}


def check_output(output: str, task: str) -> None:
    """Raises InputError if `model.output` has no loss for this kind of labels."""
    if task == "regression" and output != "identity":
        raise InputError(f"`model.output` must be identity for a data set of real values; got {output!r}")
