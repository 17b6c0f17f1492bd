"""One artefact of a training step for CPU, CUDA and TPU, loaded and run on the CPU."""

import jax
import jax.export
import numpy as np
import pytest

from resnet.config import Config
from resnet.data.datasets import load_dataset
from resnet.kernels import native
from resnet.runtime.devices import make_mesh
from resnet.training.trainer import make_trainer

PLATFORMS = ("cpu", "cuda", "tpu")


@pytest.mark.thorough
@pytest.mark.parametrize("seeds", ((0,), (0, 1)), ids=("alone", "two seeds"))
def test_a_step_is_exported_for_all_platforms(seeds):
    """The CPU's part calls our kernels where there is a compiler, as the step does that is compiled here."""
    config = Config()
    config.data.name, config.data.train_limit = "digits", 64
    config.model.blocks, config.model.stem, config.model.branch = (1, 1, 1), "imagenet", "bottleneck"
    config.model.groups, config.train.batch_size = 4, 16
    trainer = make_trainer(config, load_dataset(config.data), make_mesh(1), seeds)
    arguments = trainer.start(), trainer.batch(range(1))
    leaves, structure = jax.tree.flatten(arguments)
    step = jax.jit(lambda *leaves: jax.tree.leaves(trainer.function()(*structure.unflatten(leaves))))
    checks = native.allowed_in_exports()
    exported = jax.export.export(step, platforms=PLATFORMS, disabled_checks=checks)(*leaves)
    assert ("resnet_moments" in exported.mlir_module()) == native.in_use()
    again = jax.export.deserialize(exported.serialize())
    assert again.platforms == PLATFORMS
    found = again.call(*leaves)
    expected = jax.tree.leaves(trainer.train()(*arguments))
    for x, y in zip(found, expected, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
