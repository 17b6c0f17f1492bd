"""Writes a run as a program that needs none of our code: resnet export --workdir=runs/mine --output=DIR

Writes a new folder with the program (raw uint8 images in, logits out, batches of one image or more),
classes.txt and MODEL_CARD.md. --format=stablehlo is read by jax.export; --format=onnx by onnxruntime, with
which it is checked, and needs requirements-export.txt and jax2onnx. --folded removes shortcut and norms
first, where the net is the same without (RepVGG, DiracNet, post-activation nets). Prints what was done as
one JSON object. For PyTorch users, resnet import --export writes safetensors.
"""

from absl import flags

from resnet.cli import options as cli
from resnet.errors import check_choice


def define() -> None:
    """Defines the flags of the command."""
    cli.define_path("workdir", None, "Folder of the run.")
    flags.DEFINE_integer("step", None, "Checkpoint to export; by default the latest.")
    cli.define_path("output", None, "Folder to write; a new one.")
    flags.DEFINE_string("format", "stablehlo", "stablehlo or onnx.")
    flags.DEFINE_boolean("folded", False, "Without shortcut and norms, where the same net has such a form.")
    flags.DEFINE_string("licence", "", "Licence of the weights, for the model card, e.g. Apache-2.0.")


def main(overrides: list[str]) -> dict:
    """One call of resnet.interop.deploy.export."""
    cli.require("workdir", "output")
    check_choice("--format", cli.FLAGS.format, ("stablehlo", "onnx"))
    cli.load_run_config(overrides)
    from resnet.interop import deploy, onnx
    from resnet.run import load

    if cli.FLAGS.format == "onnx":
        onnx.check_converter()
    run = load(cli.FLAGS.workdir, cli.FLAGS.step)
    run = run.folded() if cli.FLAGS.folded else run
    return deploy.export(run, cli.FLAGS.output, cli.FLAGS.format, cli.FLAGS.licence)
