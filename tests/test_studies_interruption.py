"""A study that is killed at random times, and started again, ends with the bits of an undisturbed one."""

import json
import sys

import pytest

from resnet.errors import InputError
from resnet.studies.interruption import Interruption, _outcomes, interrupt
from resnet.studies.stored import open_folder, save_folder
from tests.studies_cases import tiny_study
from tests.test_scripts import script

STUDY = """
from tests.studies_cases import tiny_study

def get_study(scale):
    study = tiny_study(seeds=(0,))
    study.base.model.family, study.base.model.blocks = "chain", (1,)
    study.base.train.duration, study.base.train.evaluate_every = "120 steps", "60 steps"
    study.base.train.log_every, study.base.checkpoint.every = "20 steps", "20 steps"
    return study
"""


@pytest.mark.thorough
def test_a_killed_study_ends_as_an_undisturbed_one(tmp_path):
    study, page = tmp_path / "study.py", tmp_path / "page.md"
    study.write_text(STUDY)
    options = (f"--workdir={tmp_path / 'work'}", "--kills=1", "--latest=0.6", f"--output={page}")
    done = script("interrupt", *options, "--", f"--study={study}", "--study.scale=small", "--only=none")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result == {"kills": 1, "runs": 1, "different": []}
    assert "1 of its 1 runs came to the same" in page.read_text()


def test_a_run_that_differs_is_named_and_a_command_that_fails_is_an_error(tmp_path):
    assert Interruption([], 1.0, {"a/seed0": (1, 1), "b/seed0": (1, 2)}).different == ["b/seed0"]
    for number, folder in enumerate(("one", "other")):
        tiny = open_folder(tiny_study(seeds=(0,)), tmp_path / folder, "")
        save_folder(tiny)
        result = {"step": 1, "top1": 0.5, "seconds": number, "input": {"read_seconds": number}}
        for run in tiny.all_runs("none"):
            run.workdir.mkdir(parents=True)
            (run.workdir / "result.json").write_text(json.dumps(result))
    assert _outcomes(tmp_path / "one") == _outcomes(tmp_path / "other") != {}
    with pytest.raises(InputError, match="fails with exit code 3; .*log.txt says why"):
        interrupt([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "s", 1, latest=1.0, seed=0)
    (tmp_path / "t" / "killed").mkdir(parents=True)
    with pytest.raises(InputError, match="holds an earlier interruption"):
        interrupt([], tmp_path / "t", 1, latest=1.0, seed=0)
