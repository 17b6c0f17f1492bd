"""A run as a file that needs none of our code: python scripts/export.py --workdir=runs/mine --output=DIR

Writes a new folder with model.stablehlo (raw uint8 images in, logits out, batches of any size, read by
jax.export), classes.txt and MODEL_CARD.md. Prints what was done as one JSON object. For PyTorch users,
scripts/import_weights.py --export writes safetensors.
"""

import cli
from absl import flags

from resnet.errors import InputError, check_choice

flags.DEFINE_string("workdir", None, "Folder of the run.")
flags.DEFINE_integer("step", None, "Checkpoint to export; by default the latest.")
flags.DEFINE_string("output", None, "Folder to write; a new one.")
flags.DEFINE_string("format", "stablehlo", "stablehlo.")
flags.DEFINE_string("licence", "", "Licence of the weights, for the model card, e.g. Apache-2.0.")


def main(overrides: list[str]) -> dict:
    """One call of resnet.interop.deploy.export_stablehlo."""
    cli.require("workdir", "output")
    check_choice("--format", cli.FLAGS.format, ("stablehlo",))
    if overrides:
        raise InputError(f"{overrides[0]} does not apply: the run has its own config")
    from resnet.interop.deploy import export_stablehlo
    from resnet.run import load

    run = load(cli.FLAGS.workdir, cli.FLAGS.step)
    return export_stablehlo(run, cli.FLAGS.output, cli.FLAGS.licence)


if __name__ == "__main__":
    cli.run(main)
