"""Evaluates a run: resnet evaluate --workdir=runs/digits

The same weights are evaluated on other images by --config.data.name=image_folder
--config.data.dir=… (and image_size, mean, std). They are normalised as in training unless mean and
std are given. Where the run kept a moving average of its weights, that is what is evaluated. Prints
{"split", "loss", "top1", "top5", "n", "step"} as one JSON object.
"""

from absl import flags

from resnet.cli import options as cli


def define() -> None:
    """Defines the flags of the command."""
    cli.define_path("workdir", None, "Folder of the run.")
    flags.DEFINE_integer("step", None, "Checkpoint to evaluate; by default the latest.")
    flags.DEFINE_string("split", "test", "train, validation or test.")


def main(overrides: list[str]) -> dict:
    """One call of resnet.run.evaluate_run."""
    config = cli.load_run_config(overrides, changeable=("data.",))
    from resnet.run import evaluate_run, load

    run = load(cli.FLAGS.workdir, cli.FLAGS.step)
    return evaluate_run(run, cli.FLAGS.split, config.data)
