"""Evaluates a run: resnet evaluate --workdir=runs/digits

The same weights are evaluated on other images by --config.data.name=image_folder
--config.data.dir=… (and image_size, mean, std). They are normalised as in training unless mean and
std are given. Where the run kept a moving average of its weights, that is what is evaluated. Prints
{"split", "loss", "top1", "top5", "n", "step"} as one JSON object, of a regression "mae" in place of "top1"
and "top5", and "skipped_images" where some were left out; with --by_class also "by_class", which has
{"top1", "n"} for each class.

A net of ImageNet's classes is evaluated on another of its test sets, by the protocol of its authors:
resnet evaluate --workdir=runs/resnet50 --data=imagenet_v2 --config.data.dir=FOLDER
imagenet_v2: the folders 0 to 999, unpacked. imagenet_real: the validation images, and real.json beside.
imagenet_c: the folders of the fifteen corruptions; gives mCE, and the error under each.
"""

from absl import flags

from resnet.cli import options as cli
from resnet.cli.overrides import refuse_fields


def define() -> None:
    """Defines the flags of the command."""
    cli.define_path("workdir", None, "Folder of the run.")
    flags.DEFINE_integer("step", None, "Checkpoint to evaluate; by default the latest.")
    flags.DEFINE_string("split", "test", "train, validation or test.")
    flags.DEFINE_bool("by_class", False, "Give the accuracy of each class, too.")
    flags.DEFINE_string("data", "", "imagenet_v2, imagenet_real or imagenet_c, which lies in data.dir.")


def main(overrides: list[str]) -> dict:
    """One call of resnet.run.evaluate_run, or of resnet.interop.imagenet_sets.evaluate_on."""
    options = cli.FLAGS
    if options.data:
        cli.refuse(f"--data={options.data}", "by_class", "split")
    from resnet.data.config import OF_TRAINING

    refuse_fields(overrides, [f"data.{name}" for name in OF_TRAINING], "it is for images in training")
    config = cli.load_run_config(overrides, changeable=("data.", "train.accumulate"))
    from resnet.run import evaluate_run, load

    run, pace = load(options.workdir, options.step), config.parallel.pace()
    run.config.train = config.train  # how many images are evaluated at once follows from it
    if options.data:
        from resnet.interop.imagenet_sets import evaluate_on

        return evaluate_on(run, options.data, config.data, pace)
    return evaluate_run(run, options.split, config.data, pace, options.by_class)
