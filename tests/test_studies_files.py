"""Each file of configs/studies/: short, documented, paired arms at both scales, and one that trains."""

import ast
from pathlib import Path

import pytest

from resnet.config import replaced
from resnet.data.datasets import shapes_of
from resnet.studies.folder import load_folder
from resnet.studies.launch import launch
from resnet.studies.study import SCALES, Study, load_study, resolve

STUDIES = sorted((Path(__file__).parents[1] / "configs" / "studies").glob("*.py"))
NAMES = [path.stem for path in STUDIES]
# The smallest net and a few images; `blocks` goes before the depths of the arms.
TINY = {
    "model.blocks": (1, 1, 1),
    "model.width": 0.25,
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
@pytest.mark.parametrize("path", STUDIES, ids=NAMES)
def test_a_study_is_sound_at_every_scale(path, scale):
    study = load_study(path, scale)
    arms = resolve(study)
    assert len(study.seeds) >= 5 and len(arms) >= 3
    assert all(arm.parameters and arm.macs for arm in arms.values())
    assert len({str(arm.config) for arm in arms.values()}) == len(arms), "two arms are the same"
    expected = {"paper": "cifar10", "small": "digits"}[scale]
    assert {arm.config.data.name for arm in arms.values()} == {expected}
    assert shapes_of(study.base.data)[1] == 10


@pytest.mark.parametrize("path", STUDIES, ids=NAMES)
def test_an_arm_of_a_study_trains(path, tmp_path):
    study: Study = load_study(path, "small")
    name = list(study.arms)[-1]
    tiny = Study(study.title, replaced(study.base, TINY), study.arms, study.reference, seeds=(0,))
    launch(tiny, tmp_path, only=(name,))
    (run,) = load_folder(tmp_path).runs(name)
    assert run.state == "finished" and run.result["step"] == 2
