"""Nets whose norms are constants: what each image gives is then a function of that image alone."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Float

from resnet.analysis.subject import Subject
from resnet.models.config import ModelConfig
from resnet.models.resnet import ResNet, make_model
from resnet.training.losses import example_losses
from resnet.training.step import DROPOUT, random_key

IMAGES_AT_ONCE = 256


def settled(subject: Subject) -> Subject:
    """The subject. A net at its start gets the images' statistics as running statistics of its norms.

    A net starts with the running statistics 0 and 1, which describe no image.
    """
    if subject.step is not None or not subject.variables["batch_stats"]:
        return subject
    exact = {"dtype": "float32", "bn_momentum": 0.0, "bn_unbiased": False, "bn_fixed": ""}
    config = dataclasses.replace(subject.config.model, **exact)
    model = _scanned(config, subject.outputs)
    noise = {"dropout": random_key(jax.numpy.int32(subject.config.seed), DROPOUT)}
    _, seen = jax.jit(lambda variables, images: model.apply(
        variables, images, train=True, mutable=["batch_stats"], rngs=noise
    ))(subject.variables, subject.images)  # fmt: skip
    return dataclasses.replace(subject, variables=subject.variables | seen)


def logits_of(subject: Subject) -> Callable[[Any, Array], Float[Array, "b outputs"]]:
    """logits(params, images) in evaluation; equal blocks are scanned, so that derivatives compile fast."""
    model = _scanned(subject.config.model, subject.outputs)
    statistics = subject.variables["batch_stats"]
    return lambda params, images: model.apply({"params": params, "batch_stats": statistics}, images)[0]


def _scanned(config: ModelConfig, outputs: int) -> ResNet:
    """The net with its equal blocks scanned, unless something tells them apart."""
    apart = config.bn_fixed or config.widening
    return make_model(dataclasses.replace(config, scan_blocks=not apart), outputs)


def loss_of(subject: Subject) -> Callable[[Array, Array], Float[Array, ""]]:
    """loss(logits, labels): the mean over a batch, without smoothing and weight decay."""
    output = subject.config.model.output
    return lambda logits, labels: example_losses(logits, labels, output=output).mean()


def batches(subject: Subject) -> tuple[Float[Array, "k b h w c"], Array]:
    """(images, labels) in equal parts of at most `IMAGES_AT_ONCE`."""
    n = len(subject.images)
    size = max(b for b in range(1, min(n, IMAGES_AT_ONCE) + 1) if n % b == 0)
    images, labels = (x.reshape(n // size, size, *x.shape[1:]) for x in (subject.images, subject.labels))
    return images, labels
