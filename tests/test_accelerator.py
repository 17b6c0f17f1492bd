"""The hour with an accelerator, rehearsed: what is listed, refused, cut short and taken up again."""

import json

import pytest
from test_scripts import script


@pytest.mark.thorough
def test_the_commands_are_listed_and_none_is_run(tmp_path):
    done = script("accelerator", "--dry_run", f"--workdir={tmp_path / 'w'}", f"--data={tmp_path}")
    listed = json.loads(done.stdout)
    assert next(iter(listed)) == "checks" and f"--config.data.dir={tmp_path}" in listed["he2015"]
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    "argument, message",
    [("--steps=chekcs", "--steps knows checks"), ("--data=missing", "--data must be a folder")],
)
def test_what_cannot_work_is_refused(argument, message):
    done = script("accelerator", argument)
    assert done.returncode == 2 and message in done.stderr


@pytest.mark.thorough
def test_a_step_that_ended_well_is_not_repeated_and_no_step_begins_without_time(tmp_path):
    (tmp_path / "checks.done").touch()
    done = script("accelerator", f"--workdir={tmp_path}", "--steps=checks,limits", "--minutes=0")
    assert json.loads(done.stdout) == {"checks": "done", "limits": "no time"}


@pytest.mark.slow
def test_a_rehearsal(tmp_path):
    for step in ("checks", "planned", "limits", "he2015"):
        arguments = "--tiny", f"--workdir={tmp_path}", f"--steps={step}", "--minutes=30"
        done = script("accelerator", *arguments)
        assert json.loads(done.stdout) == {step: "done"}, done.stderr
    found = json.loads((tmp_path / "checks.log").read_text().splitlines()[-1])
    assert found["backend"] == "cpu" and found["like_the_cpu"]["found"] == 0
