"""Plans as a user asks for them: names of targets, the command, what it writes, and what it refuses."""

import dataclasses
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental import topologies
from PIL import Image

from resnet.cli.main import main
from resnet.errors import InputError
from resnet.planning import plan as planning
from resnet.planning import targets
from resnet.planning.compiling import TooLarge, imagined
from resnet.planning.plan import Plan, largest_batch, make_plan
from resnet.planning.targets import parse_target
from resnet.runtime import machine
from resnet.runtime.devices import mesh_of
from tests.planning_cases import stored_step, tiny


@pytest.fixture(scope="module")
def compiled():
    return stored_step()


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
        ("v5e:1x1", "v5e:1x1", ""),
        ("v5e:3x3", "", "even sides, as a host has 2x2 chips, such as v5e:2x2"),
        ("v5p:1x1x1", "", "even sides"),
        ("v5e:0x2", "", "even sides"),
        ("v5e:2", "", "even sides"),
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
    assert hasattr(imagined(config, (32, 32, 3), 10, 3_000_000).train, "sizes")  # 9.2 GB
    config.random_resized_crop = 0.08
    assert imagined(config, (32, 32, 3), 10, 100).train.image_shape == (32, 32, 3)
    published = dataclasses.replace(tiny().data, name="cifar10", memory_gb=0.1)
    assert not hasattr(imagined(published, (32, 32, 3), 10, 50_000).train, "sizes")


@pytest.mark.parametrize(
    "available, largest", ((10_000, 200), (2_000, 33), (1_000, None)), ids=("fits", "half fits", "neither")
)
def test_the_largest_batch_is_on_the_line_of_two(compiled, monkeypatch, available, largest):
    """Of 400 bytes and 48 an image; a batch whose compiler says it is too large has no point of its own."""
    target = parse_target("v5e")
    target = dataclasses.replace(target, chip=dataclasses.replace(target.chip, memory=available))
    monkeypatch.setattr(type(target), "devices", lambda _: jax.devices()[:1])

    def compile_step(trainer, side=0):
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
    assert largest_batch(plan, dataset) == largest
    if available == 10_000:
        assert largest_batch(plan, imagined(config.data, (32, 32, 3), 10, 150)) == 150


def test_steps_on_smaller_images_take_their_own_time(compiled, monkeypatch):
    target, asked = parse_target("v5e"), []
    monkeypatch.setattr(type(target), "devices", lambda _: jax.devices()[:1])
    monkeypatch.setattr(planning, "compile_step", lambda trainer, side=0: asked.append(side) or compiled)
    monkeypatch.setattr(planning, "seconds", lambda step, chip, macs: {"operations": macs / 1e6})
    config = tiny()
    config.train.duration, config.train.smaller_until = "100 steps", (("60 steps", 8), ("80 steps", 16))
    plan = make_plan(config, imagined(config.data, (32, 32, 3), 10, 1000), target)
    convolutions, head = 60 / 16 + 20 / 4 + 20, 100 - 60 / 16 - 20 / 4 - 20  # the head has no pixels
    least, most = convolutions * 0.98, convolutions + 0.02 * head
    assert asked == [0, 8, 16] and least < 3600 * plan.hours / (plan.macs / 1e6) < most


def test_devices_of_several_processes_do_not_share_the_seeds():
    devices = [
        dataclasses.make_dataclass("Device", ["process_index"], unsafe_hash=True)(i // 2) for i in range(4)
    ]
    assert (
        mesh_of(devices, 2).shape == {"seeds": 1, "data": 4} and mesh_of(devices[:2], 2).shape["seeds"] == 2
    )


@pytest.mark.parametrize("name, file", (("v5e", "requirements-tpu.txt"), ("h100", "requirements-cuda.txt")))
def test_what_is_not_installed_has_a_line_that_installs_it(name, file, monkeypatch):
    monkeypatch.setattr(targets, "COMPILERS", dict.fromkeys(targets.COMPILERS, ("no-such-compiler",)))
    with pytest.raises(InputError, match=f"--for={name} needs the compiler .*: pip install -r {file}$"):
        parse_target(name).devices()
    assert (Path(__file__).parents[1] / file).is_file()


@pytest.mark.parametrize("name, works", (("v5e:64x64", "v5e:2x2"), ("h100x8", "h100")))
def test_what_an_installed_compiler_refuses_is_no_matter_of_installing(name, works, monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("INVALID_ARGUMENT:\nno such topology")

    monkeypatch.setattr(targets, "COMPILERS", dict.fromkeys(targets.COMPILERS, ("none", "pytest")))
    monkeypatch.setattr(topologies, "get_topology_desc", refuse)
    with pytest.raises(InputError) as refused:
        parse_target(name).devices()
    said = f"pytest {pytest.__version__} refuses it (INVALID_ARGUMENT: no such topology); --for={works} works"
    assert str(refused.value) == f"--for={name}: {said}"


DESCRIBED = ("--images=1000", "--image_shape=32,32,3", "--classes=10")


@pytest.fixture
def plan(compiled, monkeypatch):
    """Calls `resnet plan` as if a v5e's compiler were here, and had compiled the stored program."""
    made = []

    def stored_plan(config, dataset, target):
        made.append((dataset.image_shape, dataset.num_outputs, len(dataset.train)))
        return Plan(target, config, compiled, "", 10**7, 2.5)

    monkeypatch.setattr(targets.Target, "devices", lambda _: jax.devices()[:1])
    monkeypatch.setattr(targets.Target, "compiler", lambda _: ("libtpu", "1.2.3"))
    monkeypatch.setattr(targets, "use_no_device", lambda: None)
    monkeypatch.setattr(planning, "make_plan", stored_plan)
    monkeypatch.setattr(machine, "prepare", lambda _: None)  # devices are counted already

    def call(*words):
        command = ["resnet", "plan", "--config=cifar10_resnet", "--for=v5e", *words]
        monkeypatch.setattr("sys.argv", command)
        main()
        return made

    return call


def test_the_command_tells_writes_and_draws(plan, tmp_path, capsys):
    files = tmp_path / "plan.json", tmp_path / "plan.png"
    made = plan(*DESCRIBED, "--largest_batch", f"--output={files[0]}", f"--picture={files[1]}")
    assert made[0] == ((32, 32, 3), 10, 1000)
    *lines, printed = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("v5e: 1 device") and "bound by cycles" in "\n".join(lines)
    assert "largest batch, extrapolated" in "\n".join(lines) and len(made) == 2
    record = json.loads(printed)
    assert record == json.loads(files[0].read_text()) and record["bound"] == "cycles"
    assert record["origin"]["command"].startswith("resnet plan --config=cifar10_resnet --for=v5e")
    assert record["origin"]["versions"]["libtpu"] == "1.2.3" and "git" in record["origin"]
    image = Image.open(files[1])
    assert image.width > 500 and len(np.unique(np.asarray(image.convert("L")))) > 10


def test_images_that_are_published_have_known_shapes(plan):
    assert plan("--images=45000") == [((32, 32, 3), 10, 45000)]


@pytest.mark.parametrize(
    "words, message",
    (
        (("--images=10", "--image_shape=a,b,3", "--classes=10"), "--image_shape must be height, .*'a,b,3'"),
        (("--images=10", "--image_shape=32,32", "--classes=10"), "--image_shape must be height, .*'32,32'"),
        (("--images=10", "--image_shape=0,32,3", "--classes=10"), "--image_shape must be height, .*'0,32,3'"),
        (("--images=10", "--image_shape=32,32,3"), "--image_shape=32,32,3 --classes=0"),
        (("--images=10", "--classes=10"), "--image_shape= --classes=10"),
        (
            ("--image_shape=32,32,3", "--classes=10"),
            "--image_shape and --classes need --images, .*; got none",
        ),
        (("--images=-1",), "--images=-1"),
        (("--images=10", "--image_shape=32,32,3", "--classes=-1"), "--classes=-1"),
    ),
)
def test_images_that_are_described_in_part_are_refused(plan, capsys, words, message):
    with pytest.raises(SystemExit) as end:
        plan(*words)
    assert end.value.code == 2
    line = capsys.readouterr().err
    assert re.search(message, line) and line.startswith("error:") and line.count("\n") == 1
