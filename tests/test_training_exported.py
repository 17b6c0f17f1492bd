"""One artefact of a training step for CPU, CUDA and TPU, loaded and run on the CPU."""

import subprocess
import sys

import jax
import jax.export
import numpy as np
import pytest

from resnet.config import Config
from resnet.data.datasets import load_dataset
from resnet.kernels import native
from resnet.kernels.moments import moments
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


LOADED = """
import sys
import jax.export, jax.numpy as jnp
from resnet.kernels import native
if sys.argv[2] == "register":
    native.in_use()
program = jax.export.deserialize(bytearray(open(sys.argv[1], "rb").read()))
print(*(array.tolist() for array in program.call(jnp.arange(96.0).reshape(1, 2, 3, 16), jnp.zeros(16))))
"""


@pytest.mark.thorough
@pytest.mark.skipif(not native.in_use(), reason="no C++ compiler")
def test_another_process_registers_the_kernels_before_it_runs_the_program(tmp_path):
    x, shift = jax.numpy.arange(96.0).reshape(1, 2, 3, 16), jax.numpy.zeros(16)
    checks = native.allowed_in_exports()
    exported = jax.export.export(jax.jit(moments), platforms=PLATFORMS, disabled_checks=checks)(x, shift)
    (tmp_path / "program").write_bytes(exported.serialize())

    def run(first):
        command = [sys.executable, "-c", LOADED, str(tmp_path / "program"), first]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    expected = (array.tolist() for array in moments(x, shift))
    assert run("register").stdout.strip() == " ".join(map(str, expected))
    failed = run("call")
    assert failed.returncode and "resnet_moments" in failed.stderr
