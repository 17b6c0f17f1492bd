"""Singular vectors of branches against those of whole matrices, and nets whose blocks are alike or not."""

import dataclasses

import jax
import numpy as np
import pytest

from resnet.analysis import alignment, rotation
from resnet.analysis.subject import of_config
from resnet.config import Config
from resnet.errors import InputError
from resnet.models.config import ModelConfig

CHAIN = {"family": "chain", "blocks": (3,), "width": 0.125, "norm": "none", "activation": "identity",
         "after_sum": "identity"}  # fmt: skip


def chain(**model):
    config = Config(model=ModelConfig(**CHAIN | model))
    config.data.name = "digits"
    return of_config("chain", config, images=2)


@pytest.mark.thorough
def test_the_vectors_are_those_of_the_matrix():
    subject = chain(kernel_init="he_fan_in", activation="relu")
    stem, block, *_ = subject.parts()
    x = stem(subject.images)[:, :3, :3]
    left, values, right = alignment.singular_vectors(block, x, k=3, steps=60)
    for i in range(2):
        one = x[i : i + 1]
        matrix = jax.jacobian(lambda v, one=one: block.branch(v.reshape(one.shape)).ravel())(one.ravel())
        u, s, v = np.linalg.svd(np.asarray(matrix, np.float64))
        np.testing.assert_allclose(values[i], s[:3], rtol=1e-3)
        np.testing.assert_allclose(np.abs(np.diag(u[:, :3].T @ left[i])), 1, atol=1e-2)
        np.testing.assert_allclose(np.abs(np.diag(v[:3] @ right[i])), 1, atol=1e-2)


@pytest.mark.thorough
def test_blocks_that_are_alike_have_the_same_vectors():
    """Copies of one linear block overlap fully; blocks of their own as chance has it, in the mean."""
    subject = chain()
    stage = subject.variables["params"]["stage1"]
    alike = subject.variables | {
        "params": subject.variables["params"] | {"stage1": dict.fromkeys(stage, stage["block1"])}
    }
    same = alignment.ask(dataclasses.replace(subject, variables=alike), alignment.Options(vectors=3)).nets[0]
    np.testing.assert_allclose([same.left[:2], same.right[:2]], 1, atol=0.02)
    own = alignment.ask(subject, alignment.Options(vectors=3)).nets[0]
    assert np.nanmax([own.left, own.right]) < 0.4 and own.within.max() < 0.9
    assert np.isnan(own.left[-1]) and own.blocks == [f"stage1/block{i}" for i in (1, 2, 3)]
    np.testing.assert_allclose(own.chance, 3 / (8 * 8 * 2))


@pytest.mark.thorough
def test_a_block_that_scales_has_the_same_vectors_on_both_sides():
    found = alignment.ask(chain(kernel_init="identity"), alignment.Options(vectors=3)).nets[0]
    np.testing.assert_allclose(found.within, 1, atol=0.02)


def test_overlaps_of_known_spaces():
    vectors = np.eye(6)[None]
    assert alignment.overlap(vectors[..., :2], vectors[..., :2]) == 1
    assert alignment.overlap(vectors[..., :2], vectors[..., 1:3]) == 0.5
    assert alignment.overlap(vectors[..., :2], vectors[..., 2:4]) == 0


@pytest.mark.thorough
def test_a_net_whose_blocks_all_change_the_shape_is_refused():
    config = Config(model=ModelConfig(blocks=(1, 1, 1), stem_width=8, transition="projection"))
    with pytest.raises(InputError, match="has no block that keeps the shape of x"):
        alignment.ask(of_config("net", config, images=2), alignment.Options())


@pytest.mark.thorough
@pytest.mark.parametrize("question", [alignment, rotation])
def test_a_net_of_several_streams_is_refused(question):
    config = Config(model=ModelConfig(blocks=(2, 1, 1), width=0.5, shortcut="hyper_static"))
    with pytest.raises(InputError, match="it carries several streams, of which F"):
        question.ask(of_config("net", config, images=2), question.Options())
