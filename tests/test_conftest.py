"""What holds for all tests: annotations are checked, and tests without time are counted at the end."""

import os
import subprocess
import sys

import jax.numpy as jnp
import pytest
from beartype.roar import BeartypeCallHintParamViolation
from jaxtyping import TypeCheckError

from resnet.training.config import TrainConfig
from resnet.training.losses import example_losses


def test_arguments_that_break_their_annotations_are_errors():
    """Shapes, those of two arguments against each other too, and the fields of configs."""
    logits, labels = jnp.zeros((4, 10)), jnp.zeros(4, jnp.int32)
    assert example_losses(logits, labels, output="softmax").shape == (4,)
    for wrong in ((logits[0], labels), (logits, labels[:3]), (logits, labels + 0.5j)):
        with pytest.raises(TypeCheckError):
            example_losses(*wrong, output="softmax")
    with pytest.raises(BeartypeCallHintParamViolation):
        TrainConfig(seeds="2")


@pytest.mark.thorough
@pytest.mark.parametrize("options", ([], ["-n2"]), ids=("one process", "two processes"))
def test_a_session_that_runs_out_of_time_says_so(options, tmp_path):
    """Of tests, and not of a module that is skipped as a whole."""
    test = f"{__file__}::{test_arguments_that_break_their_annotations_are_errors.__name__}"
    module = tmp_path / "test_skipped.py"
    module.write_text("import pytest\npytest.importorskip('a_package_that_is_not_here')\n")
    command = [sys.executable, "-m", "pytest", *options, test, str(module)]
    environment = os.environ | {"TEST_MINUTES": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "WARNING: 1 tests had no time, as TEST_MINUTES ran out" in done.stdout
