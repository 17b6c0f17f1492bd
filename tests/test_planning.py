"""Plans: what is read from the text of a compiled program, and what the TPU's compiler makes of our step."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from resnet.config import Config
from resnet.errors import InputError
from resnet.planning import plan as planning
from resnet.planning import report
from resnet.planning.compiling import Compiled, TooLarge, imagined
from resnet.planning.figures import collectives, costs, seconds
from resnet.planning.findings import findings
from resnet.planning.plan import Plan, largest_batch, make_plan
from resnet.planning.program import read_program
from resnet.planning.targets import CHIPS, parse_target
from resnet.runtime.devices import make_mesh
from resnet.training.trainer import make_trainer

DATA = Path(__file__).parent / "data"
IMAGES = 50_000 * 32 * 32 * 3
BATCH = 128 * 32 * 32 * 3
ACTIVATION = 128 * 32 * 32 * 16


@pytest.fixture(scope="module")
def program():
    return read_program((DATA / "plan_tpu.txt").read_text())


def tiny(dtype="bfloat16"):
    config = Config()
    config.model.blocks, config.model.dtype = (1, 1, 1), dtype
    config.data.random_crop, config.data.flip = 4, True
    config.train.batch_size = 128
    return config


@pytest.fixture(scope="module")
def compiled(program):
    config = tiny()
    trainer = make_trainer(config, imagined(config.data, (32, 32, 3), 10, 1000), make_mesh(1))
    memory = {"arguments": 1000, "results": 500, "shared": 400, "temporaries": 2000, "program": 10}
    return Compiled(trainer, program, memory, state=500_400, images=IMAGES, counted={})


def test_instructions_are_read_as_they_stand(program):
    entry = program.computations[program.entry]
    images = entry.instructions["param.139"]
    assert images.results[0].dims == (50_000, 32, 32, 3) and images.bytes == IMAGES
    assert images.op_name.startswith("batch.arrays")
    assert [each.name for each in entry.parameters()] == ["param.80", "param.139", "param.140"]
    fusion = entry.instructions["convert_reduce_fusion.2"]
    assert [array.dtype for array in fusion.results] == ["f32", "bf16"] and fusion.cycles == 23309
    assert [array.space for array in fusion.results] == [1, 0]
    assert "convolution" in program.opcodes(fusion) and entry.root == "tuple.4"
    assert [each.name for each in entry.users["copy.139"]] == ["gather_fusion"]
    with pytest.raises(ValueError, match="no entry computation"):
        read_program("HloModule nothing\n")


def test_costs_by_part_phase_and_kind(program):
    found = {(cost.part, cost.phase, cost.kind): (cost.bytes, cost.cycles) for cost in costs(program)}
    # A gather reads as much as it takes; what lies on the chip costs nothing; a loop runs eight times.
    assert found[("data", "data", "copy")] == (2 * IMAGES + 128 * 4, 7652610)
    assert found[("data", "data", "other arithmetic")] == (2 * BATCH, 5000)
    assert found[("stem", "forward", "convolution")] == (BATCH + 2 * ACTIVATION, 23309)
    assert found[("stage1", "forward", "other arithmetic")] == (8 * 4 * ACTIVATION, 8000)
    assert found[("stage1", "backward", "norm")] == (6 * ACTIVATION, 9000)


def test_collectives_by_what_they_are_of(program):
    kernel = 3 * 3 * 3 * 16 * 4
    assert collectives(program) == [
        {"kind": "all-reduce", "phase": "update", "of": "other", "count": 1, "bytes": kernel + 4},
        {"kind": "all-reduce", "phase": "forward", "of": "statistics", "count": 1, "bytes": 64},
    ]


def test_exchanges_are_found_where_a_tpu_fuses_them():
    exchanged = collectives(read_program((DATA / "plan_exchanges.txt").read_text()))
    found = [(each["kind"], each["phase"], each["count"], each["bytes"]) for each in exchanged]
    assert found == [
        ("all-gather", "forward", 1, 64 * 64 * 2),
        ("reduce-scatter", "backward", 1, 16 * 64 * 2),
    ]


def test_findings_name_what_they_are_of(compiled):
    copied, wide, donated = findings(compiled)
    assert copied.startswith("batch.arrays") and "153.6 MB, is copied to another layout" in copied
    assert wide.startswith(
        "1 activations are written as float32, though the net computes in bfloat16: 8.4 MB"
    )
    assert donated == "0.5 of 0.5 MB of the state are not donated"
    shared = dataclasses.replace(compiled, state=300)
    assert len(findings(shared)) == 2


def test_times_and_what_binds(compiled):
    chip = CHIPS["v5e"]
    times = seconds(compiled, chip, macs=10**7)
    assert times["operations"] == pytest.approx(6e7 * 128 / 197e12)
    assert times["cycles"] == pytest.approx(sum(cost.cycles for cost in costs(compiled.program)) / 1.5e9)
    assert set(seconds(compiled, CHIPS["h100"], 1)) == {"bytes", "operations"}
    plan = Plan(parse_target("v5e"), compiled.trainer.config, compiled, "", 10**7)
    record = plan.record()
    assert record["fits"] and record["memory"]["peak"] == 3110 and record["bound"] == "cycles"
    text = report.table(record)
    assert "bound by cycles" in text and "all-reduce of statistics, forward" in text and "copied" in text
    full = dataclasses.replace(compiled, memory=compiled.memory | {"temporaries": 17 << 30})
    assert not dataclasses.replace(plan, compiled=full).fits
    missing = Plan(plan.target, plan.config, None, "Used 16.00G of 15.75G hbm", 1)
    assert "does not fit: Used 16.00G of 15.75G hbm" in report.table(missing.record())


@pytest.mark.parametrize(
    "text, topology, message",
    (
        ("v5e", "v5e:1x1", ""),
        ("v5e:2x2", "v5e:2x2", ""),
        ("v5p:2x2x1", "v5p:2x2x1", ""),
        ("h100", "1", ""),
        ("h100x8", "8", ""),
        ("v5p", "", "a slice of TPUs"),
        ("v5ex4", "", "a slice of TPUs"),
        ("h100x0", "", "one device or more"),
        ("h10", "", "did you mean"),
        ("", "", "--for knows v4, v5e"),
    ),
)
def test_names_of_targets(text, topology, message):
    if not message:
        assert parse_target(text).topology == topology
        return
    with pytest.raises(InputError, match=message):
        parse_target(text)


def test_a_stream_is_imagined_where_the_config_would_stream():
    config = tiny().data
    config.name, config.dir, config.image_size = "image_folder", "/nowhere", 32
    assert isinstance(imagined(config, (32, 32, 3), 10, 100).train.labels, np.ndarray)
    assert not hasattr(imagined(config, (32, 32, 3), 10, 100).train, "sizes")
    config.random_resized_crop = 0.08
    assert imagined(config, (32, 32, 3), 10, 100).train.image_shape == (32, 32, 3)


@pytest.mark.parametrize(
    "available, largest", ((10_000, 200), (2_000, 0), (1_000, None)), ids=("fits", "half fits", "neither")
)
def test_the_largest_batch_is_on_the_line_of_two(compiled, monkeypatch, available, largest):
    """Of 400 bytes and 48 an image; a batch whose compiler says it is too large has no point of its own."""
    target = parse_target("v5e")
    target = dataclasses.replace(target, chip=dataclasses.replace(target.chip, memory=available))
    monkeypatch.setattr(type(target), "devices", lambda _: jax.devices()[:1])

    def compile_step(trainer):
        needed = 400 + 48 * trainer.config.train.batch_size
        if needed > available:
            raise TooLarge("too large")
        memory = dict.fromkeys(compiled.memory, 0) | {"temporaries": needed}
        return dataclasses.replace(compiled, memory=memory)

    monkeypatch.setattr(planning, "compile_step", compile_step)
    config = tiny()
    config.train.batch_size = 64
    dataset = imagined(config.data, (32, 32, 3), 10, 1000)
    plan = make_plan(config, dataset, target)
    assert plan.fits == (available == 10_000)
    assert largest_batch(plan, dataset) == (largest if largest != 0 else 32)


@pytest.fixture
def optimized():
    """Programs are compiled as they are outside of tests."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.mark.slow
def test_a_divided_state_is_gathered_and_scattered_on_tpus(optimized):
    pytest.importorskip("libtpu", reason="libtpu, an optional extra, is not installed")
    config = tiny()
    config.model.width, config.parallel.shard_parameters, config.train.batch_size = 4.0, 16384, 512
    plan = make_plan(config, imagined(config.data, (32, 32, 3), 10, 50_000), parse_target("v5e:2x2"))
    record = plan.record()
    kinds = {each["kind"] for each in record["collectives"]}
    assert {"all-gather", "reduce-scatter"} <= kinds and record["findings"] == []
    assert record["memory"]["shared"] >= record["memory"]["state"]


@pytest.mark.slow
@pytest.mark.parametrize("seeds", (1, 2))
def test_our_step_compiled_for_four_tpus(seeds, optimized):
    """State donated, images not copied, nothing exchanged with the host, gradients in one all-reduce."""
    pytest.importorskip("libtpu", reason="libtpu, an optional extra, is not installed")
    config = tiny()
    config.train.batch_size, config.train.seeds = 512, seeds
    plan = make_plan(config, imagined(config.data, (32, 32, 3), 10, 50_000), parse_target("v5e:2x2"))
    record = plan.record()
    assert record["fits"] and record["findings"] == []
    assert record["memory"]["shared"] >= record["memory"]["state"]
    assert record["memory"]["temporaries"] < IMAGES / 10
    exchanged = {(each["phase"], each["of"]): each["count"] for each in record["collectives"]}
    # Seven norms: one exchange forward and one backward each.
    assert exchanged == {("update", "other"): 1, ("forward", "statistics"): 7, ("backward", "statistics"): 7}
    assert record["seconds"]["cycles"] < 1.5e-3
