"""Commands and scripts refuse an output that cannot be written before they begin the work."""

import dataclasses

import pytest

from resnet.analysis.claims.claim import Claim
from resnet.analysis.questions import QUESTIONS
from resnet.cli import options as cli
from resnet.errors import InputError
from resnet.planning import plan as planning
from resnet.planning import report as plan_report
from resnet.planning import targets
from resnet.runtime import machine
from resnet.studies import interruption
from resnet.studies.pages.repeated import write_repetition
from resnet.studies.stored import open_folder, save_folder
from scripts import accelerator, benchmark, claims, interrupt, parity, planned, plans, soak
from scripts.benchmarks import parts
from scripts.peers import nets
from tests.studies_cases import tiny_study
from tests.test_command import called
from tests.test_studies_refused import end


class Worked(Exception):
    """Raised in place of the work."""


def work(*_, **__):
    raise Worked


PLAN = "--config=cifar10_resnet", "--for=v5e", "--images=45000"
CALLS = {
    "interrupt": (interrupt, "--workdir=w", "--output={}/page.md"),
    "parity": (parity, "--output={}/page.md"),
    "soak": (soak, "--workdir=w", "--record={}/rows"),
    "claims": (claims, "--workdir=w", "--output={}/docs"),
    "benchmark": (benchmark, "--quick", "--parts=scan", "--output={}/speed.json"),
    "plans": (plans, "--nets=resnet8", "--targets=v5e", "--output={}/plans"),
    "planned": (planned, "--nets=resnet8", "--output={}/planned.json"),
    "accelerator": (accelerator, "--workdir={}/w"),
    "plan": ("plan", *PLAN, "--output={}/plan.json"),
    "picture": ("plan", *PLAN, "--picture={}/plan.png"),
    "analyze": ("analyze", "--question=signal", "--config=digits", "--images=8", "--output={}/answer"),
}


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Calls a script, or a command by its name, whose work is replaced: (exit code, what it said)."""
    monkeypatch.chdir(tmp_path)
    for owner, name in (
        (interruption, "interrupt"), (parity, "compare_nets"), (soak, "undisturbed"), (Claim, "test"),
        (planning, "make_plan"), (plans, "_plan"), (planned, "_compared"), (accelerator, "_run"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, work)
    measured = {name: dataclasses.replace(part, measure=work) for name, part in parts.PARTS.items()}
    monkeypatch.setattr(parts, "PARTS", measured)
    monkeypatch.setitem(QUESTIONS, "signal", dataclasses.replace(QUESTIONS["signal"], ask=work))
    for owner, name in (
        (nets, "need"), (targets, "use_no_device"), (plans, "use_no_device"), (machine, "keep_memory"),
        (machine, "count_devices"), (machine, "prepare"), (accelerator.signal, "signal"),
    ):  # fmt: skip
        monkeypatch.setattr(owner, name, lambda *_, **__: None)
    monkeypatch.setattr(targets.Target, "devices", lambda _: [])
    monkeypatch.setattr(plan_report, "origin_of_plan", lambda *_: {})

    def run(script, *arguments):
        with pytest.raises((SystemExit, Worked)) as end:
            if isinstance(script, str):
                called(monkeypatch, script, *arguments)
            else:
                cli.run(script.main, script.define, arguments)
        return getattr(end.value, "code", None), capsys.readouterr().err

    return run


@pytest.mark.parametrize("name", CALLS)
def test_an_output_is_tried_before_the_work(name, tmp_path, call):
    script, *arguments = CALLS[name]
    (tmp_path / "file").touch()
    code, said = call(script, *(argument.format(tmp_path / "file") for argument in arguments))
    assert code == 2 and ("cannot write" in said or "cannot make the folder" in said), said
    assert said.count("\n") == 1
    code, said = call(script, *(argument.format(tmp_path / "no/such") for argument in arguments))
    assert code is None and (tmp_path / "no/such").is_dir()


def test_a_page_of_a_repetition_cannot_be_where_a_file_is(tmp_path):
    folder = open_folder(tiny_study(), tmp_path / "s", "")
    save_folder(folder)
    for run in (run for name in folder.arms for run in folder.runs(name)):
        end(run, 0.9 + 0.01 * run.seed)
    (tmp_path / "page").touch()
    with pytest.raises(InputError, match="cannot make the folder .*: a file lies there"):
        write_repetition(folder, folder, tmp_path / "page", "Twice")


@pytest.mark.parametrize("script", (plans, planned))
def test_all_nets_are_known_before_the_work(script, tmp_path, call):
    code, said = call(script, "--nets=resnet8,resnet21", "--output=out")
    assert code == 2 and "--nets knows resnet8, resnet20" in said and "got 'resnet21'" in said
    assert not list(tmp_path.iterdir())
