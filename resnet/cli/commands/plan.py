"""Predicts memory and time of a training on an accelerator: resnet plan --config=cifar10_resnet --for=v5e

Compiles the step of `resnet train` by that device's own compiler, for which no device is needed. Tells
whether the step fits, its memory by kind, the least time of a step and of the training, what devices
exchange, and warns of needless work. Nothing is trained or measured: times are lower bounds. Compiling takes
minutes for a large net. TPUs need requirements-tpu.txt, GPUs requirements-cuda.txt; data that are not at hand
are described by --images, --image_shape and --classes. Prints the plan as one JSON object.
"""

from absl import flags

from resnet.cli import images
from resnet.cli import options as cli
from resnet.errors import InputError
from resnet.files import check_suffix, check_writable


def define() -> None:
    """Defines the flags of the command."""
    cli.define_config()
    flags.DEFINE_string("for", None, "The devices: v5e, v5e:2x2, v5p:2x2x1, v6e, h100, h100x8, …")
    flags.DEFINE_integer(
        "images", 0, "How many training images there are; by default, those of the data set.", lower_bound=0
    )
    images.define()
    flags.DEFINE_bool("largest_batch", False, "Compile half the batch too, and tell the largest that fits.")
    cli.define_path("picture", None, "File of a picture of where the time goes, by stage and kind.")
    cli.define_path("output", None, "File for the JSON object; by default it is printed alone.")


def main(overrides: list[str]) -> dict:
    """One call of resnet.planning.plan.make_plan."""
    cli.require("config", "for")
    from resnet.planning.targets import parse_target, use_no_device

    options = cli.FLAGS
    target = parse_target(str(options["for"].value))
    use_no_device()
    config = cli.chosen_config(overrides)
    from resnet.planning import picture, report
    from resnet.planning.plan import largest_batch, make_plan

    # Before the data are read.
    target.devices()
    check_suffix("--picture", options.picture, ".png")
    check_writable(options.output, options.picture)
    dataset = _dataset(config)
    plan = make_plan(config, dataset, target)
    record = plan.record() | {"origin": report.origin_of_plan(target, cli.command())}
    if options.largest_batch:
        record["largest_batch"] = largest_batch(plan, dataset)
    print(report.table(record))
    if options.picture and plan.compiled:
        picture.draw_plan(plan, options.picture)
    if options.output:
        from resnet.runs.metrics.records import write_json

        write_json(options.output, record)
    return record


def _dataset(config):
    """The config's data set, or one that the flags describe."""
    from resnet.data.datasets import load_dataset
    from resnet.planning.compiling import imagined

    if count := cli.FLAGS.images:
        return imagined(config.data, *images.shapes(config.data), count)
    if images.described():
        raise InputError("--image_shape and --classes need --images, the number of the images; got none")
    return load_dataset(config.data)
