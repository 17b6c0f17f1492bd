"""The benchmark: twins that are the same nets, turns that alternate, files that agree with each other."""

import dataclasses
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from resnet.cli import options as cli
from resnet.errors import InputError
from resnet.models.counts import count_parts, totals
from resnet.models.resnet import make_model
from resnet.runtime import machine
from resnet.weights.state_dict import from_state_dict
from scripts import benchmark as script
from scripts.benchmarks import operations, ours, parts, report, timing
from scripts.benchmarks.parts import PARTS
from scripts.peers import torch_steps
from scripts.peers.flax_nets import SHAPES, StockResNet, init
from scripts.peers.torch_nets import CASES, TINY
from tests.test_benchmark_pages import entry

ROOT = Path(__file__).parents[1]
QUICKLY = {"xla_backend_optimization_level": 0}


def shapes_of(config, num_outputs, side):
    model = make_model(config, num_outputs)
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    return model, jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros(images.shape), train=False))


def logits(model, variables, images):
    def apply(variables, images):
        result = model.apply(variables, images, train=False)
        return result[0] if isinstance(result, tuple) else result

    return jax.jit(apply, compiler_options=QUICKLY)(variables, images)


@pytest.mark.filterwarnings("ignore:::(torch|timm)")
@pytest.mark.parametrize("name", CASES)
def test_twins_in_pytorch_have_as_many_parameters(name):
    pytest.importorskip("torch", reason="torch, an optional extra, is not installed")
    case = CASES[name]
    if case.side > 32 and importlib.util.find_spec("timm") is None:
        pytest.skip("timm, an optional extra, is not installed")
    theirs = sum(p.numel() for p in case.peer.build(case.num_outputs).parameters())
    assert theirs == totals(count_parts(case.peer.config, case.num_outputs, (case.side, case.side, 3)))[0]


@pytest.mark.parametrize("case", (TINY, CASES["wrn16_4"]), ids=lambda case: case.name)
def test_twins_in_pytorch_give_the_same_logits(case):
    """Those of CIFAR; ImageNet's are timm's, and held against ours in test_interop_parity."""
    torch = pytest.importorskip("torch", reason="torch, an optional extra, is not installed")
    torch.manual_seed(0)
    module = case.peer.build(case.num_outputs).eval()
    state = {name: tensor.numpy() for name, tensor in module.state_dict().items()}
    model, shapes = shapes_of(case.peer.config, case.num_outputs, case.side)
    variables, _ = from_state_dict(state, case.peer.config, shapes, case.peer.naming)
    images = np.random.default_rng(0).normal(size=(2, case.side, case.side, 3)).astype(np.float32)
    with torch.no_grad():
        theirs = module(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()
    np.testing.assert_allclose(logits(model, variables, images), theirs, atol=1e-4)


@pytest.mark.thorough
@pytest.mark.parametrize("name", SHAPES)
def test_twins_of_stock_flax_hold_the_same_variables(name):
    case = TINY if name == TINY.name else CASES[name]
    net = StockResNet(SHAPES[name], case.num_outputs)
    theirs = jax.eval_shape(lambda: init(net, case.side))
    model, shapes = shapes_of(case.peer.config, case.num_outputs, case.side)
    assert jax.tree.map(lambda leaf: leaf.shape, theirs) == jax.tree.map(lambda leaf: leaf.shape, shapes)
    if case is TINY:
        variables = init(net, case.side)
        images = np.random.default_rng(0).normal(size=(2, case.side, case.side, 3)).astype(np.float32)

        class Stock:
            apply = staticmethod(net.apply)

        np.testing.assert_allclose(
            logits(Stock, variables, images), logits(model, variables, images), atol=1e-5
        )


def test_steps_take_turns():
    calls = []
    times = timing.interleave({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 4, 60.0)
    assert "".join(calls) == "aabb" + 4 * "ab"
    assert {name: len(series) for name, series in times.items()} == {"a": 4, "b": 4}
    few = timing.interleave({"a": lambda: None}, 50, 0.0)
    assert len(few["a"]) == timing.LEAST_ROUNDS


def test_ratios_are_taken_round_by_round():
    found = timing.compared({"a": [1.0, 2.0, 4.0], "b": [2.0, 2.0, 2.0]}, "a", "s")
    assert found["medians"] == {"a": 2.0, "b": 2.0}
    assert found["ratios"] == {"b": [0.75, 1.0, 1.5]}


def test_what_others_take_is_noted(monkeypatch):
    """Of four seconds of two processors six were busy, two of them with this process."""
    with monkeypatch.context() as patch:
        patch.setattr(timing, "_busy_seconds", iter([100.0, 106.0]).__next__)
        patch.setattr(timing.time, "perf_counter", iter([0.0, 4.0]).__next__)
        patch.setattr(timing.os, "times", iter([(1.0, 0, 0, 0, 0), (2.0, 1.0, 0, 0, 0)]).__next__)
        patch.setattr(timing.os, "cpu_count", lambda: 2)
        with timing.watched() as noted:
            pass
    assert noted == {"others": 0.5}


def test_without_pytorch_ours_is_measured_alone_and_that_is_said(tmp_path, monkeypatch, caplog):
    def missing(*packages):
        raise InputError(
            f"{packages[0]}, which this needs, is not installed: pip install -r requirements-torch.txt"
        )

    monkeypatch.setattr(torch_steps, "need", missing)
    for step in ("training_step", "inference_step"):
        monkeypatch.setattr(ours, step, lambda case, **_: lambda: None)
    monkeypatch.setattr(parts, "working_memory", lambda step: 1.0)
    effort = parts.Effort(rounds=2, seconds=0.0, compiled=True, dtype="float32")
    for part in ("training", "inference", "memory"):
        found = PARTS[part].measure(TINY, effort)
        assert found["reference"] == "ours" and "PyTorch" not in found["medians"]
    assert caplog.text.count("is measured without PyTorch: torch, which this needs, is not installed") == 3
    alone = {f"training/{TINY.name}": entry(**timing.compared({"ours": [1.0, 2.0, 3.0]}, "ours", "s"))}
    merged = report.add(tmp_path / "speed.json", alone)
    assert TINY.name in (tmp_path / "speed.md").read_text() and TINY.name not in report.readme_table(merged)


def benchmark(tmp_path, *parts, more=()):
    arguments = ["--quick", "--rounds=2", "--seconds=0", f"--output={tmp_path / 'speed.json'}", *more]
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts/benchmark.py"), f"--parts={','.join(parts)}", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
    )


def measure(tmp_path, *parts):
    done = benchmark(tmp_path, *parts)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert set(printed) == set(json.loads((tmp_path / "speed.json").read_text()))
    assert set(printed) == {f"{part}/{TINY.name}" for part in parts}


@pytest.mark.thorough
def test_what_the_file_has_is_not_measured_again(tmp_path):
    report.add(tmp_path / "speed.json", {f"limits/{TINY.name}": entry(batch=77)})
    done = benchmark(tmp_path, "limits", more=["--missing"])
    assert done.returncode == 0 and json.loads(done.stdout) == {}, done.stderr
    assert json.loads((tmp_path / "speed.json").read_text())[f"limits/{TINY.name}"]["batch"] == 77


def test_operations_by_kind():
    """Loops are left out, an unnamed convolution is a gradient, the optimiser has what is outside the net."""
    program = """%fused.10 (y: f32[8]) -> f32[8] {
      ROOT %convolution.11 = f32[8]{0} convolution(%y), window={size=8x8}
}

ENTRY %main (x: f32[8]) -> f32[8] {
      %ffi_call.1 = f32[8]{0} custom-call(%x), custom_call_target="resnet_forward", metadata={op_name="jit(t)/norm1/f"}
      ROOT %ffi_call.2 = (f32[8]{0}, f32[8]{0}) custom-call(%x), custom_call_target="resnet_moments"
      %dot.3 = f32[8]{0} dot(%x), metadata={op_name="jit(t)/transpose(jvp(ResNet))/stage1/block1/conv1/dot"}
      %convolution.4 = f32[8]{0} convolution(%x), metadata={op_name="jit(t)/jvp(ResNet)/stem/conv1/conv"}
      %fusion.5 = f32[8]{0} fusion(%x), metadata={op_name="jit(t)/jvp(ResNet)/stage1/block1/jit(relu)/max"}
      %ynn_fusion.12 = f32[8]{0} fusion(%x), kind=kCustom, calls=%fused.10
      %transpose_copy_fusion.6 = f32[8]{0} fusion(%x), kind=kLoop
      %fusion.7 = f32[8]{0} fusion(%x), metadata={op_name="jit(t)/mul"}
      %ffi_call.8 = f32[8]{0} custom-call(%x), custom_call_target="resnet_combination", metadata={op_name="jit(t)/transpose(jvp(ResNet))/stem/conv1/f"}
      %cond.9.clone = f32[8]{0} conditional(%x), metadata={op_name="jit(t)/jvp(ResNet)/stem/conv1/cond"}
}
"""  # noqa: E501
    backward, forward, sums, norms, copies, rest = operations.KINDS
    found = {name: kind for name, kind in operations.kinds_of(program).items() if name != "convolution.11"}
    assert list(found.values()) == [forward, sums, backward, forward, norms, backward, copies, rest, norms]
    assert "cond.9.clone" not in found


@pytest.mark.slow
def test_parts_that_need_no_pytorch(tmp_path):
    measure(tmp_path, "scan", "limits", "stream", "scale", "streamed", "operations", "operations_stock")
    assert (tmp_path / "speed_operations.png").exists()


@pytest.mark.slow
def test_all_parts(tmp_path):
    pytest.importorskip("torch", reason="torch, an optional extra, is not installed")
    measure(tmp_path, *PARTS)


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """Calls the script where nothing is measured: (exit code, what it printed, what it said)."""
    entry = timing.compared({"ours": [1.0, 2.0, 3.0]}, "ours", "s")
    measured = {name: dataclasses.replace(part, measure=lambda *_: entry) for name, part in PARTS.items()}
    monkeypatch.setattr(parts, "PARTS", measured)
    for name in ("keep_memory", "count_devices"):
        monkeypatch.setattr(machine, name, lambda *_: None)

    def run(*arguments):
        try:
            cli.run(script.main, script.define, (*arguments, f"--output={tmp_path / 'speed.json'}"))
            code = 0
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--parts=trainig"], "`--parts` must be one of training, inference, .*; got 'trainig'"),
        (["--cases=resnet57"], "`--cases` must be one of resnet20, .*; got 'resnet57'"),
        (["--quick", "--cases=resnet57"], "`--cases` must be one of resnet20, .*; got 'resnet57'"),
        (["--parts=depth", "--cases=resnet20"], "must be one of resnet56, resnet110; got 'resnet20'"),
        (
            ["--dtype=bfloat16", "--parts=limits,depth"],
            "is for --parts=training,.*; got 'bfloat16' and the part depth",
        ),
        (["--dtype=float23"], "`--dtype` must be one of float32, bfloat16; got 'float23'"),
    ],
)
def test_what_is_not_there_is_refused_before_anything_is_measured(call, tmp_path, arguments, message):
    code, printed, said = call(*arguments)
    assert code == 2 and not printed and re.search(message, said) and said.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_case_is_measured_by_the_parts_that_have_it(call):
    for more, case in ((), "resnet56"), (("--quick",), "resnet8"):
        code, printed, _ = call("--parts=depth,seeds,limits", "--cases=resnet56", *more)
        assert code == 0 and set(json.loads(printed)) == {f"depth/{case}", f"limits/{case}"}
