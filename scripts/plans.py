"""Plans nets for accelerators, ours and those of stock Flax: python scripts/plans.py --targets=v5e,h100

Each net of --nets is compiled for each of --targets, 128 images a device in bfloat16: ours and, except for
several seeds, that of stock Flax in our training step. A plan goes to <net>_<target>_<whose>.json in
--output; one that is there is made again with --renew only. The table of all plans in the folder goes to
plans.md, with the commit and the versions of each, and a picture of their times to plans.png.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import cli
from absl import flags, logging

from resnet.files import make_folder, save_png, write_text
from resnet.planning.targets import use_no_device

ROOT = Path(__file__).resolve().parents[1]
NETS = ("resnet8", "resnet20", "resnet20x16", "resnet50_1111", "resnet50")
PER_DEVICE = 128
# "before" are plans of the code before its forms for accelerators, made by hand.
WHOSE = ("before", "ours", "flax")
# (shape, classes, training images): CIFAR-10's lie on each device, ImageNet's are streamed.
CIFAR, IMAGENET = ((32, 32, 3), 10, 50_000), ((224, 224, 3), 1000, 1_281_167)


def config_of(net: str, devices: int) -> tuple[Any, tuple]:
    """(config, what the images are) of a net; InputError for one that is not known."""
    if net not in NETS:
        raise cli.InputError(f"--nets knows {', '.join(NETS)}; got {net!r}")
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
        config.data.random_crop = 4
        config.model.blocks = (1, 1, 1) if net == "resnet8" else ()
        config.train.seeds = 16 if net.endswith("x16") else 1
    config.model = dataclasses.replace(config.model, dtype="bfloat16")
    return config, IMAGENET if net.startswith("resnet50") else CIFAR


def _stock(trainer: Any, net: str) -> Any:
    """The trainer with a net of stock Flax in place of ours."""
    from scripts.peers.flax_nets import SHAPES, InOurStep, StockResNet

    shape = dataclasses.replace(SHAPES[net.split("_")[0].removesuffix("x16")], dtype="bfloat16")
    if net.endswith("1111"):
        shape = dataclasses.replace(shape, blocks=(1, 1, 1, 1))
    model = InOurStep(StockResNet(shape, trainer.task.num_outputs), trainer.config.model)
    return dataclasses.replace(trainer, step=dataclasses.replace(trainer.step, model=model))


def _plan(net: str, target: Any, whose: str, path: Path) -> dict[str, Any]:
    """Makes one plan and its picture."""
    from resnet.planning.compiling import imagined, trainer_on
    from resnet.planning.picture import draw_plan
    from resnet.planning.plan import largest_batch, plan_of

    config, images = config_of(net, len(target.devices()))
    dataset = imagined(config.data, *images)
    trainer = trainer_on(config, dataset, target)
    plan = plan_of(_stock(trainer, net) if whose == "flax" else trainer, target)
    if plan.compiled:
        draw_plan(plan, path.with_suffix(".png"))
    record = {"net": net, "whose": whose} | plan.record()
    if cli.FLAGS.largest_batch and whose == "ours":
        record["largest_batch"] = largest_batch(plan, dataset)
    return record


def _file(net: str, target: str, whose: str) -> str:
    return f"{net}_{target.replace(':', '_')}_{whose}.json"


def read_plans(folder: Path) -> list[dict[str, Any]]:
    """All plans of a folder, by net and target, and in the order of WHOSE."""
    plans = [json.loads(path.read_bytes()) for path in folder.glob("*.json")]
    return sorted(plans, key=lambda plan: (plan["net"], plan["target"], WHOSE.index(plan["whose"])))


ABOUT = (
    "# Plans by the compilers",
    "",
    "One step on 128 images a device in bfloat16: predicted, not measured. Times are the least that a device",
    "needs by bytes moved, by operations, and by cycles where its compiler counts them.",
)


def table(plans: list[dict[str, Any]]) -> str:
    """The plans as Markdown, without columns that none of them fills, and where they come from."""
    from resnet.runs.provenance import commit, origin_lines
    from resnet.runs.tables import markdown_table

    rows = []
    for plan in plans:
        made = commit(plan["origin"])[:12] if plan.get("origin") else ""
        if "memory" not in plan:
            rows.append((plan["net"], plan["target"], plan["whose"], made, "does not fit"))
            continue
        times = {name: 1e3 * value for name, value in plan["seconds"].items()}
        exchanges = sum(each["count"] for each in plan["collectives"])
        numbers = (
            f"{plan['bytes_moved'] / 1e9:.3f}", f"{times['bytes']:.3f}", f"{times['operations']:.3f}",
            f"{times['cycles']:.3f}" if "cycles" in times else "", f"{plan['images_per_second']:,.0f}",
            f"{plan['memory']['temporaries'] / 1e6:,.0f}", f"{plan['memory']['peak'] / 1e6:,.0f}",
            str(plan.get("largest_batch", "")), str(plan["kernels"]), str(exchanges or ""),
            str(len(plan["findings"]) or ""),
        )  # fmt: skip
        rows.append((plan["net"], plan["target"], plan["whose"], made, *numbers))
    headers = (
        "net", "target", "whose", "commit", "GB a step", "ms by bytes", "by operations", "by cycles",
        "images/s at most", "temporaries MB", "peak MB", "largest batch", "kernels", "exchanges", "findings",
    )  # fmt: skip
    found = [
        f"- {plan['net']}, {plan['target']}, {plan['whose']}: {line}"
        for plan in plans
        for line in plan.get("findings", [])
    ]
    known = [plan["origin"] for plan in plans if plan.get("origin")]
    origins = origin_lines(known)
    if len(known) < len(plans):
        origins.append("- Commit and versions of the others were not kept.")
    filled = [i for i in range(len(headers)) if any(i < len(row) and row[i] for row in rows)]
    rows = [tuple(row[i] for i in filled if i < len(row)) for row in rows]
    text = markdown_table(rows, [headers[i] for i in filled], disable_numparse=True)
    return "\n".join([*ABOUT, "", text, "", *found, "", *origins])


def draw(plans: list[dict[str, Any]], path: Path) -> None:
    """Writes a picture of the least time of a step, of each net and target."""
    from matplotlib.figure import Figure

    plans = [plan for plan in plans if "memory" in plan]
    groups = list(dict.fromkeys((plan["net"], plan["target"]) for plan in plans))
    figure = Figure(figsize=(8, 1.2 + 0.3 * len(groups)), layout="constrained")
    axes = figure.subplots()
    for whose, marker in zip(WHOSE, "s>o", strict=True):
        own = [plan for plan in plans if plan["whose"] == whose]
        times = [1e3 * plan["seconds"][plan["bound"]] for plan in own]
        places = [groups.index((plan["net"], plan["target"])) for plan in own]
        axes.plot(times, places, marker, label=whose, fillstyle="none")
    axes.set_xscale("log")
    axes.set_yticks(range(len(groups)), [f"{net}, {target}" for net, target in groups])
    axes.invert_yaxis()
    axes.grid(axis="y", alpha=0.3)
    axes.set_xlabel("ms, by what binds: bytes, operations or the compiler's cycles")
    axes.set_title("Least time of a training step: predicted, not measured", fontsize="medium")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(frameon=False, fontsize="small", loc="outside right upper")
    save_png(figure, path, dpi=120)


def main(overrides: list[str]) -> dict[str, Any]:
    """Makes what is missing, and writes the table."""
    cli.refuse_overrides(overrides, "each net has its own config")
    for net in cli.FLAGS.nets:
        config_of(net, devices=1)  # first, as compiling takes minutes
    from resnet.planning.report import origin_of_plan
    from resnet.planning.targets import parse_target
    from resnet.runs.metrics.records import write_json

    use_no_device()
    folder = make_folder(cli.FLAGS.output)
    missing = [
        (net, target, whose, path)
        for target in map(parse_target, cli.FLAGS.targets)
        for net in cli.FLAGS.nets
        for whose in ("ours", "flax")
        if whose == "ours" or (cli.FLAGS.stock and not net.endswith("x16"))
        if not (path := folder / _file(net, target.name, whose)).exists() or cli.FLAGS.renew
    ]
    # Before plans change the working tree.
    origins = {target.name: origin_of_plan(target, cli.command()) for _, target, _, _ in missing}
    for net, target, whose, path in missing:
        logging.info("%s for %s, %s", net, target.name, whose)
        write_json(path, _plan(net, target, whose, path) | {"origin": origins[target.name]})
    plans = read_plans(folder)
    write_text(folder / "plans.md", f"{table(plans)}\n")
    draw(plans, folder / "plans.png")
    return {"plans": len(plans), "folder": str(folder)}


def define() -> None:
    """Defines the flags."""
    nets = "Nets to plan for; x16 is 16 seeds together, 1111 one block a stage."
    flags.DEFINE_list("nets", list(NETS), nets)
    flags.DEFINE_list("targets", ["v5e", "h100"], "Devices, as `resnet plan --for` takes them.")
    flags.DEFINE_bool("stock", True, "Plan the nets of stock Flax as well.")
    flags.DEFINE_bool(
        "largest_batch", False, "Compile half of each batch too, and tell the largest that fits."
    )
    flags.DEFINE_bool(
        "renew", False, "Make plans again that are there, as the code or a compiler has changed."
    )
    cli.define_path("output", str(ROOT / "results/plan"), "Folder of the plans.")


if __name__ == "__main__":
    cli.run(main, define)
