"""Plans: what is read from the text of a compiled program, and what the TPU's compiler makes of our step."""

import dataclasses

import jax
import pytest
from jax.sharding import SingleDeviceSharding

from resnet.data.batches import FlatImages, shape_of_rows
from resnet.planning import report
from resnet.planning.compiling import imagined
from resnet.planning.figures import collectives, costs, seconds
from resnet.planning.findings import findings
from resnet.planning.plan import Plan, make_plan
from resnet.planning.program import read_program
from resnet.planning.targets import CHIPS, parse_target
from tests.planning_cases import DATA, IMAGES, stored_step, tiny

BATCH = 128 * 32 * 32 * 3
ACTIVATION = 128 * 32 * 32 * 16


@pytest.fixture(scope="module")
def program():
    return read_program((DATA / "plan_tpu.txt").read_text())


@pytest.fixture(scope="module")
def compiled():
    return stored_step()


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


def test_work_of_a_gpu_by_part_phase_and_kind():
    """Real lines of a net of one block and 4 channels on two H100: cuDNN's calls, products, a gather."""
    found = {
        (cost.part, cost.phase, cost.kind): cost.bytes
        for cost in costs(read_program((DATA / "plan_gpu.txt").read_text()))
    }
    images, kernel, activation = 2 * BATCH, 2 * 4 * 27, 2 * 128 * 32 * 32 * 4
    assert found[("data", "data", "other arithmetic")] == images + BATCH
    assert found[("stem", "forward", "convolution")] == images + kernel + activation
    assert found[("stem", "backward", "convolution")] == images + kernel + activation
    assert ("head", "forward", "matrix product") in found and (
        "loss",
        "forward",
        "other arithmetic",
    ) not in found


def test_exchanges_of_a_gpu_have_one_channel_and_no_names():
    """Gradients of the head share one with the sums of the last norm, which wait for it."""
    exchanged = collectives(read_program((DATA / "plan_gpu.txt").read_text()))
    assert [tuple(each.values()) for each in exchanged] == [
        ("all-reduce", "update", "other", 1, 4 * 119),
        ("all-reduce", "backward", "statistics and other", 1, 4 * 58),
        ("all-reduce", "forward", "statistics", 1, 4 * 8),
    ]


def test_findings_name_what_they_are_of(compiled):
    copied, wide, donated = findings(compiled)
    assert copied.startswith("batch.arrays") and "153.6 MB, is copied to another layout" in copied
    assert wide.startswith(
        "1 activations are written as float32, though the net computes in bfloat16: 8.4 MB"
    )
    assert ", such as [128, 32, 32, 16] of jit(train)/" in wide and wide.endswith(
        "norm1/convert_element_type"
    )
    assert donated == "0.5 of 0.5 MB of the state are not donated"
    shared = dataclasses.replace(compiled, state=300)
    assert len(findings(shared)) == 2


def wide_findings(compiled, seeds, dims, operation):
    """Lists findings about activations of a step, one norm of which writes a float32 array `dims`."""
    text = (DATA / "plan_tpu.txt").read_text()
    changed = text.replace("%wide = f32[128,32,32,16]", f"%wide = f32[{dims}]")
    changed = changed.replace("norm1/convert_element_type", f"norm1/{operation}")
    train = dataclasses.replace(compiled.trainer.config.train, seeds=seeds)
    config = dataclasses.replace(compiled.trainer.config, train=train)
    trainer = dataclasses.replace(compiled.trainer, config=config)
    found = findings(dataclasses.replace(compiled, program=read_program(changed), trainer=trainer))
    return [line for line in found if "activations" in line]


@pytest.mark.parametrize(
    "seeds, dims, operation, wide",
    (
        (1, "128,2048", "reduce_sum", 1),
        (1, "3,3,128,512", "transpose", 0),
        (1, "1024,128,128", "transpose", 0),
        (4, "4,128,2048", "reduce_sum", 1),
        (4, "4,3,128,512", "transpose", 0),
        (1, "128,128,128", "dot_general", 0),
    ),
    ids=("features", "gradient of a kernel", "one seed", "features of seeds", "kernels of seeds", "sums"),
)
def test_what_has_as_many_channels_as_images_is_no_activation(compiled, seeds, dims, operation, wide):
    assert len(wide_findings(compiled, seeds, dims, operation)) == wide


@pytest.mark.parametrize(
    "line, count",
    (
        ("", 4),  # to the host and back, and a callback that sends and receives
        ("%in = ((s32[8]{0}), token[]) infeed(%debug_callback.7)", 5),
        ("%out = token[] outfeed(%x.1, %debug_callback.7)", 5),
        ('%call = f32[] custom-call(%x.1), custom_call_target="xla_ffi_python_gpu_callback"', 5),
        ("%read = bf16[8]{0} fusion(%copy-done), kind=kLoop, calls=%f", 5),
        ("%away = (bf16[8]{0}, u32[], token[]) send(%x.1, %debug_callback.7), channel_id=9", 4),
    ),
    ids=("as it is", "infeed", "outfeed", "callback on a GPU", "fusion that reads", "send to a device"),
)
def test_transfers_with_the_host_are_counted_where_they_begin(compiled, line, count):
    """Real lines of a step on a TPU, and one more."""
    text = (
        (DATA / "plan_transfers.txt")
        .read_text()
        .replace("  %debug_callback.8", f"  {line}\n  %debug_callback.8")
    )
    found = findings(dataclasses.replace(compiled, program=read_program(text), state=0))
    assert found == [f"{count} transfers between device and host, such as copy-start"]


def test_times_and_what_binds(compiled):
    chip = CHIPS["v5e"]
    times = seconds(compiled, chip, macs=10**7)
    assert times["operations"] == pytest.approx(6e7 * 128 / 197e12)
    assert times["cycles"] == pytest.approx(sum(cost.cycles for cost in costs(compiled.program)) / 1.5e9)
    assert set(seconds(compiled, CHIPS["h100"], 1)) == {"bytes", "operations"}
    frozen = dataclasses.replace(compiled.trainer.config, freeze="^stem/")
    least = dataclasses.replace(compiled, trainer=dataclasses.replace(compiled.trainer, config=frozen))
    assert seconds(least, chip, macs=10**7)["operations"] == pytest.approx(times["operations"] / 3)
    plan = Plan(parse_target("v5e"), compiled.trainer.config, compiled, "", 10**7, 2.5)
    record = plan.record()
    assert record["fits"] and record["memory"]["peak"] == 3110 and record["bound"] == "cycles"
    text = report.table(record)
    assert "bound by cycles" in text and "all-reduce of statistics, forward" in text and "copied" in text
    full = dataclasses.replace(compiled, memory=compiled.memory | {"temporaries": 17 << 30})
    assert not dataclasses.replace(plan, compiled=full).fits
    missing = Plan(plan.target, plan.config, None, "Used 16.00G of 15.75G hbm", 1, 0.0)
    record = missing.record() | {"largest_batch": 96}
    told = "does not fit: Used 16.00G of 15.75G hbm\nlargest batch, extrapolated: 96"
    assert report.table(record).endswith(told)


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
@pytest.mark.parametrize("side", (32, 128, 224))
def test_tpus_gather_images_without_a_copy(side):
    """Of a thousand images, and not of all in another layout."""
    pytest.importorskip("libtpu", reason="libtpu, an optional extra, is not installed")
    device = SingleDeviceSharding(parse_target("v5e:2x2").devices()[0])

    def on_device(shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=device)

    rows = on_device(shape_of_rows((8192, side, side, 3)), "uint8")
    images, places = FlatImages(rows, (side, side, 3)), on_device((128,), "int32")
    program = (
        jax.jit(lambda images, places: images[places].astype("bfloat16")).lower(images, places).compile()
    )
    assert program.memory_analysis().temp_size_in_bytes < 1e6


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
