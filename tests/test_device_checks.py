"""What is compared on a device: bounds that can be exceeded, and results that stay if another fails."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

import resnet
from resnet.cli.options import run
from resnet.errors import InputError
from scripts import device_checks, planned

GOOD = {
    "deterministic/1": {"sha256": "a"},
    "deterministic/2": {"sha256": "a"},
    "bfloat16/float32": {"loss": 1.0},
    "bfloat16/bfloat16": {"loss": 1.05},
    "restored_on_the_cpu/moved": {"top1": 0.5},
    "restored_on_the_cpu/stayed": {"top1": 0.52},
}
WEIGHTS = {"kernel": np.array([4.0, -2.0]), "bias": np.array([1.0])}
CHECKS = tuple(check.__name__ for check in device_checks.CHECKS)


@pytest.fixture
def check(tmp_path, monkeypatch, capsys):
    """Calls the script with results of runs as given; gives the runs, exit code, and what was written."""
    begun = []

    def call(runs=GOOD, apart=1e-4, backend="gpu", arguments=()):
        weights = {"accelerator": WEIGHTS, "cpu": {**WEIGHTS, "kernel": WEIGHTS["kernel"] + apart}}
        nets = {name: SimpleNamespace(variables={"params": tree}) for name, tree in weights.items()}
        begun.clear()

        def trained(overrides, name, *_, cpu=False, steps=0):
            assert overrides == [word for word in arguments if word.startswith("--config.")]
            begun.append(name)
            if name.startswith("like_the_cpu/"):
                return {}
            if name not in runs:
                raise InputError(f"{name}: train.py ended with code 1")
            return runs[name]

        monkeypatch.setattr(device_checks, "trained", trained)
        monkeypatch.setattr(device_checks, "backend", lambda: backend)
        monkeypatch.setattr(resnet, "load", lambda folder: nets[folder.name])
        code = 0
        try:
            run(device_checks.main, device_checks.define, [f"--workdir={tmp_path}", *arguments])
        except SystemExit as end:
            code = end.code
        return list(begun), code, json.loads((tmp_path / "checks.json").read_text())

    return call


def test_what_lies_within_the_bounds_passes(check):
    _, code, rows = check()
    assert code == 0 and {name for name in rows if name in CHECKS} == set(CHECKS)
    assert rows["like_the_cpu"]["found"] == pytest.approx(1e-4 / (4 + 1e-4))


@pytest.mark.parametrize(
    ("name", "changed"),
    (
        ("like_the_cpu", {"apart": 0.1}),
        ("like_the_cpu", {"apart": float("nan")}),
        ("deterministic", {"runs": GOOD | {"deterministic/2": {"sha256": "b"}}}),
        ("bfloat16", {"runs": GOOD | {"bfloat16/bfloat16": {"loss": 1.2}}}),
        ("restored_on_the_cpu", {"runs": GOOD | {"restored_on_the_cpu/moved": {"top1": 0.3}}}),
    ),
)
def test_what_exceeds_its_bound_is_named_and_repeated(check, name, changed):
    _, code, rows = check(**changed)
    assert str(code).startswith(f"error: not passed on gpu: {name}: ")
    assert set(rows) == {"backend", "steps", "overrides", *CHECKS}
    begun, code, _ = check()
    assert code == 0 and {run.split("/")[0] for run in begun} == {name}


def test_a_run_that_fails_leaves_the_others_their_results(check):
    broken = {name: result for name, result in GOOD.items() if not name.startswith("bfloat16")}
    _, code, rows = check(broken)
    assert str(code).startswith("error: not passed on gpu: bfloat16: ")
    assert "ended with code 1" in rows["bfloat16"]["error"]
    assert all("found" in rows[name] for name in CHECKS if name != "bfloat16")
    assert check()[0] == ["bfloat16/float32", "bfloat16/bfloat16"]


def test_results_of_another_device_or_length_do_not_count(check):
    everything = check(backend="cpu")[0]
    assert check()[0] == everything and check()[0] == []
    for arguments in (["--steps=4"], ["--steps=4", "--config.model.width=0.25"]):
        assert check(arguments=arguments)[0] == everything and check(arguments=arguments)[0] == []


def test_nets_that_were_timed_here_are_not_timed_again(tmp_path, monkeypatch):
    timed = []
    monkeypatch.setattr(planned, "_target", lambda: None)
    monkeypatch.setattr(planned, "_compared", lambda net, _: timed.append(net) or {"ratio": 2.0})
    output = tmp_path / "planned.json"
    for nets in ("resnet20", "resnet20,resnet50"):
        run(planned.main, planned.define, [f"--nets={nets}", f"--output={output}"])
    assert timed == ["resnet20", "resnet50"]
    rows = json.loads(output.read_text())
    assert set(rows) == {"resnet20", "resnet50"} and rows["resnet20"]["origin"]["command"]
    rows["resnet20"]["origin"]["devices"] = {"kinds": ["another"]}
    output.write_text(json.dumps(rows))
    run(planned.main, planned.define, ["--nets=resnet20,resnet50", f"--output={output}"])
    assert timed == ["resnet20", "resnet50", "resnet20"]


def test_a_device_of_unknown_limits_is_timed_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(planned, "_measured", lambda trainer: 0.002)
    output = tmp_path / "planned.json"
    run(planned.main, planned.define, ["--nets=resnet8", f"--output={output}"])
    row = json.loads(output.read_text())["resnet8"]
    assert row["measured_ms"] == 2.0 and set(row) == {"measured_ms", "origin"}
