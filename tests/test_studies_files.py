"""Each file of configs/studies/: short, documented, arms that can be built, and one of them steps."""

import ast
from pathlib import Path

import jax
import numpy as np
import pytest

from resnet.config import check_config, replaced
from resnet.data.datasets import load_dataset
from resnet.runtime.devices import make_mesh
from resnet.studies.study import SCALES, load_study, resolve
from resnet.training.trainer import make_trainer
from tests import models_cases

STUDIES = sorted((Path(__file__).parents[1] / "configs" / "studies").glob("*.py"))
NAMES = [path.stem for path in STUDIES]
# One starts from the weights of another run, the other chooses a learning rate; both have one scale.
OF_OUR_OWN = {"finetune", "half_width_rate"}
# Three train on photographs, two at many rates, one for long.
OF_THREE_SEEDS = {"augmentation", "fashion_budgets", "cifar10_small", "budgets"}
OF_THREE_SEEDS |= {"rate_transfer", "rate_transfer_width"}
PAPERS = [path for path in STUDIES if path.stem not in OF_OUR_OWN]
# Counting the arms, which are deep at the papers' scale, is what takes the time.
COUNTED = ("he2015_depth", "he2016_shortcuts", "without_shortcut")
SMALL = {path.stem for path in PAPERS} - {"grammar"}  # whose arms are the nets of test_models_grammar.py
BUILT = [
    pytest.param(
        path,
        scale,
        id=f"{path.stem}-{scale}",
        marks=[] if path.stem in (COUNTED if scale == "paper" else SMALL) else [pytest.mark.slow],
    )
    for path in PAPERS
    for scale in SCALES
]
# The smallest net and a few images made up; `blocks` goes before the depths of the arms.
TINY = {
    "model.family": models_cases.TINY["family"],
    "model.blocks": models_cases.TINY["blocks"],
    "model.width": 1.0,
    "model.ghost_batch": 0,
    "data.name": "synthetic",
    "data.train_limit": 64,
    "train.batch_size": 16,
    "train.duration": "2 steps",
    "schedule.warmup": "1 steps",
}


@pytest.mark.parametrize("path", STUDIES, ids=NAMES)
def test_a_study_is_short_and_tells_source_and_command(path):
    text = path.read_text()
    docstring = ast.get_docstring(ast.parse(text)) or ""
    assert len(text.splitlines()) <= 30 and "Source: " in docstring
    assert f"--study=configs/studies/{path.name} " in docstring and "--workdir=runs/" in docstring


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_the_rate_of_a_longer_training_falls_later(path, scale):
    study = load_study(path, scale)
    configs = [replaced(study.base, arm.changes) for arm in study.arms.values()]
    longer = [
        config.schedule
        for config in configs
        if config.train.duration != study.base.train.duration and config.schedule.name == "step"
    ]
    assert all(milestone.endswith("%") for schedule in longer for milestone in schedule.milestones)
    assert longer or (path.stem, scale) not in {("budgets", "paper"), ("without_shortcut", "paper")}


@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_the_arms_at_the_scale_of_the_papers_are_nets(path):
    study = load_study(path, "paper")
    for arm in study.arms.values():
        check_config(replaced(study.base, arm.changes))


@pytest.mark.thorough
@pytest.mark.parametrize(("path", "scale"), BUILT)
def test_the_arms_of_a_study_can_be_built(path, scale):
    study = load_study(path, scale)
    check_config(study.base)
    arms = resolve(study)
    assert len(study.seeds) >= (3 if path.stem in OF_THREE_SEEDS else 5) and len(arms) >= 3
    assert all(arm.parameters and arm.macs for arm in arms.values())
    assert len({str(arm.config) for arm in arms.values()}) == len(arms), "two arms are the same"
    data = "cifar10" if scale == "paper" or path.stem.startswith("cifar10") else "digits"
    data = "fashion_mnist" if path.stem.startswith(("fashion", "augmentation")) else data
    assert {arm.config.data.name for arm in arms.values()} == {data}


@pytest.mark.thorough
@pytest.mark.parametrize("path", PAPERS, ids=lambda path: path.stem)
def test_an_arm_of_a_study_steps(path):
    study = load_study(path, "small")
    config = replaced(study.base, {**study.arms[list(study.arms)[-1]].changes, **TINY})
    trainer = make_trainer(config, load_dataset(config.data), make_mesh(1))
    state = trainer.start()
    before = jax.device_get(state.params)
    state, metrics = trainer.train()(state, trainer.batch(range(1, 2)))
    assert np.isfinite(metrics["loss"]).all()
    changed = jax.tree.map(lambda a, b: bool((a != b).any()), before, jax.device_get(state.params))
    assert any(jax.tree.leaves(changed))
