"""Plans nets for accelerators, ours and those of stock Flax: python scripts/plans.py --targets=v5e,h100

Each net of --nets is compiled for each of --targets, 128 images a device in bfloat16, ours and, on one
device, that of stock Flax in our training step. A plan goes to <net>_<target>_<whose>.json in --output, and a
plan that is there is not made again. The table of all plans in the folder goes to plans.md.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import cli
from absl import flags, logging

from resnet.planning.targets import use_no_device

NETS = ("resnet8", "resnet20", "resnet20x16", "resnet50_1111", "resnet50")
flags.DEFINE_list("nets", list(NETS), "Nets to plan for; x16 is 16 seeds together, 1111 one block a stage.")
flags.DEFINE_list("targets", ["v5e", "h100"], "Devices, as `resnet plan --for` takes them.")
flags.DEFINE_bool("stock", True, "Plan the nets of stock Flax as well.")
cli.define_path("output", "results/plan", "Folder of the plans.")

PER_DEVICE = 128
# Images that lie on each device: CIFAR-10's, and as many of ImageNet's size as fill 1.2 GB.
CIFAR, PHOTOGRAPHS = ((32, 32, 3), 10, 50_000), ((224, 224, 3), 1000, 8192)


def _config(net: str, devices: int) -> tuple[Any, tuple]:
    """(config, what the images are) of a net."""
    from resnet.config import Config
    from resnet.models.zoo import ZOO

    config = Config()
    config.train.batch_size = PER_DEVICE * devices
    config.optimizer.momentum, config.optimizer.weight_decay = 0.9, 1e-4
    config.data.flip = True
    if net.startswith("resnet50"):
        blocks = (1, 1, 1, 1) if net.endswith("1111") else ()
        config.model = dataclasses.replace(ZOO["resnet50"].config, blocks=blocks)
    else:
        config.data.shift = 4
        config.model.blocks = (1, 1, 1) if net == "resnet8" else ()
        config.train.seeds = 16 if net.endswith("x16") else 1
    config.model = dataclasses.replace(config.model, dtype="bfloat16")
    return config, PHOTOGRAPHS if net.startswith("resnet50") else CIFAR


def _stock(trainer: Any, net: str) -> Any:
    """The trainer with a net of stock Flax in place of ours."""
    from scripts.peers.flax_nets import SHAPES, InOurStep, StockResNet

    shape = dataclasses.replace(SHAPES[net.split("_")[0].removesuffix("x16")], dtype="bfloat16")
    if net.endswith("1111"):
        shape = dataclasses.replace(shape, blocks=(1, 1, 1, 1))
    model = InOurStep(StockResNet(shape, trainer.task.num_outputs), trainer.config.model)
    return dataclasses.replace(trainer, step=dataclasses.replace(trainer.step, model=model))


def _plan(net: str, name: str, whose: str, folder: Path) -> None:
    """Makes one plan, and its picture."""
    from resnet.planning.compiling import imagined, trainer_on
    from resnet.planning.picture import draw_plan
    from resnet.planning.plan import plan_of
    from resnet.planning.targets import parse_target
    from resnet.runs.metrics.records import write_json

    target = parse_target(name)
    config, images = _config(net, len(target.devices()))
    trainer = trainer_on(config, imagined(config.data, *images), target)
    plan = plan_of(_stock(trainer, net) if whose == "flax" else trainer, target)
    path = folder / _file(net, name, whose)
    write_json(path, {"net": net, "whose": whose} | plan.record())
    if plan.compiled:
        draw_plan(plan, path.with_suffix(".png"))


def _file(net: str, target: str, whose: str) -> str:
    return f"{net}_{target.replace(':', '_')}_{whose}.json"


def table(folder: Path) -> str:
    """All plans of a folder, as Markdown."""
    from resnet.runs.tables import markdown_table

    rows = []
    for path in sorted(folder.glob("*.json")):
        plan = json.loads(path.read_text())
        if "memory" not in plan:
            rows.append((plan["net"], plan["target"], plan["whose"], "does not fit"))
            continue
        times = {name: 1e3 * value for name, value in plan["seconds"].items()}
        exchanges = sum(each["count"] for each in plan["collectives"])
        numbers = (
            f"{plan['bytes_moved'] / 1e9:.2f}", f"{times['bytes']:.2f}", f"{times['operations']:.2f}",
            f"{times['cycles']:.2f}" if "cycles" in times else "", f"{plan['images_per_second']:,.0f}",
            f"{plan['memory']['temporaries'] / 1e6:,.0f}", f"{plan['memory']['peak'] / 1e6:,.0f}",
            str(exchanges or ""), str(len(plan["findings"]) or ""),
        )  # fmt: skip
        rows.append((plan["net"], plan["target"], plan["whose"], *numbers))
    headers = (
        "net", "target", "whose", "GB a step", "ms by bytes", "by operations", "by cycles",
        "images/s at most", "temporaries MB", "peak MB", "exchanges", "findings",
    )  # fmt: skip
    return markdown_table(rows, headers, disable_numparse=True)


def main(overrides: list[str]) -> dict[str, Any]:
    """Makes what is missing, and writes the table."""
    if overrides:
        raise cli.InputError(f"{overrides[0]} does not apply: each net has its own config")
    for net in cli.FLAGS.nets:
        if net not in NETS:
            raise cli.InputError(f"--nets knows {', '.join(NETS)}; got {net!r}")
    use_no_device()
    folder = cli.FLAGS.output
    folder.mkdir(parents=True, exist_ok=True)
    for target in cli.FLAGS.targets:
        for net in cli.FLAGS.nets:
            alone = target in ("v5e", "v6e", "h100", "a100") and not net.endswith("x16")
            for whose in ("ours", "flax") if alone and cli.FLAGS.stock else ("ours",):
                if not (folder / _file(net, target, whose)).exists():
                    logging.info("%s for %s, %s", net, target, whose)
                    _plan(net, target, whose, folder)
    (folder / "plans.md").write_text(f"{table(folder)}\n")
    return {"plans": len(list(folder.glob("*.json"))), "folder": str(folder)}


if __name__ == "__main__":
    cli.run(main)
