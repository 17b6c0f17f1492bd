"""Takes weights of PyTorch in: resnet import --source=FILE --config=FILE --workdir=W

Reads a state dict (.pth, .th, … or .safetensors) with the names of torchvision, timm,
transformers or the usual CIFAR nets, and makes W an ordinary run at step 0: evaluate it, or train on.
Every tensor must be one of the config's net. What PyTorch does otherwise is set, and the log says how
training on keeps it: model.bn_unbiased, as its running variances are unbiased, and model.pad_side for
CIFAR nets, which pad zeros on both sides. Classes and normalisation are those of the config's data, so set
data.mean and data.std to those of the weights; with --classes no data are read. And ours out:

resnet import --workdir=W --export=FILE.safetensors --licence=CC0-1.0

with FILE.MODEL_CARD.md beside it. Prints what was done as one JSON object.
"""

from absl import flags

from resnet.cli import options as cli
from resnet.errors import InputError


def define() -> None:
    """Defines the flags of the command."""
    cli.define_config()
    cli.define_path("source", None, "Weight file to import: .pth, .pt, .th, .bin, .ckpt, .safetensors.")
    cli.define_path("workdir", None, "Folder of the run: a new one, or with --export the run that goes out.")
    cli.define_path("export", None, "File to write the run's weights to: FILE.safetensors.")
    flags.DEFINE_integer("step", None, "Checkpoint to export; by default the latest.")
    flags.DEFINE_string(
        "naming",
        "",
        "torchvision, timm, timm_v2, transformers or cifar; by default detected, or the net's own.",
    )
    flags.DEFINE_string(
        "licence", "", "Licence of the exported weights, for the model card, e.g. Apache-2.0."
    )
    cli.define_path(
        "classes", None, "Text file with the name of one class a line, instead of reading the data."
    )


def main(overrides: list[str]) -> dict:
    """One call of resnet.interop.convert."""
    cli.require("workdir")
    if bool(cli.FLAGS.source) == bool(cli.FLAGS.export):
        raise InputError(
            "give one of --source=FILE (import) and --export=FILE (export); --help explains both"
        )
    if cli.FLAGS.export:
        cli.refuse("--export", "config", "classes")
        cli.load_run_config(overrides)
        from resnet.interop.convert import export_weights

        given = cli.FLAGS
        return export_weights(
            given.workdir, given.export, naming=given.naming, step=given.step, licence=given.licence
        )
    cli.refuse("--source", "step", "licence")
    from resnet.weights.files import check_source

    check_source(cli.FLAGS.source)  # first, since it takes no time
    config = cli.chosen_config(overrides)
    from resnet.interop.convert import import_weights

    return import_weights(
        cli.FLAGS.source,
        config,
        cli.FLAGS.workdir,
        naming=cli.FLAGS.naming,
        classes=cli.FLAGS.classes or "",
        command=cli.command(),
    )
