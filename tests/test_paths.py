"""`regex_of` matches the tensors that do not fit a net, with their modules, and no other tensor."""

import re

import pytest

from resnet.models.config import ModelConfig
from resnet.models.resnet import make_model
from resnet.paths import leaf_paths, regex_of
from resnet.training.start import variables_shapes


def paths(**fields):
    """The paths of a net's variables, without their collection."""
    model = make_model(ModelConfig(depth=14, **fields), 10)
    variables = variables_shapes(model=model, image_shape=(32, 32, 3))
    return [path.partition("/")[2] for path in leaf_paths(variables)]


def module(path):
    return path.rpartition("/")[0]


@pytest.mark.parametrize(
    ("there", "regex"),
    [
        ({"shortcut": "rezero"}, "/shortcut/"),
        ({"shortcut": "projection"}, "/shortcut/"),
        ({"activation_order": "preactivation"}, None),
        ({"norm": "none"}, None),
    ],
)
def test_an_expression_drops_the_modules_that_one_net_lacks_and_nothing_else(there, regex):
    mine, theirs = paths(), paths(**there)
    odd = {*mine} ^ {*theirs}
    found = regex_of(odd, [*mine, *theirs])
    assert regex in (None, found)
    dropped = {path for path in (*mine, *theirs) if re.search(found, path)}
    assert odd <= dropped
    assert {module(path) for path in dropped} == {module(path) for path in odd}


def test_modules_are_told_by_their_start_or_by_what_they_share():
    known = [f"stage{s}/block{b}/{m}/kernel" for s in (1, 2) for b in (1, 2) for m in ("conv1", "conv2")]
    known += ["head/norm1/scale", "head/dense/kernel", "head/dense/bias"]
    for odd, regex in (
        (["head/dense/kernel"], "^head/dense/"),
        (["head/norm1/scale", "head/dense/kernel"], "^(head/dense/|head/norm1/)"),
        ([path for path in known if "block2" in path], "/block2/"),
        ([path for path in known if "stage2" in path], "^stage2/"),
        (["stage2/block1/conv2/kernel"], "^stage2/block1/conv2/"),
        (["extra", "layer9.1.weight", "layer9.2.x", "stage1/block1/conv1/kernel"],
         r"^(extra$|layer9\.|stage1/block1/conv1/)"),
        (known, ""),
    ):  # fmt: skip
        assert regex_of(odd, known) == regex
