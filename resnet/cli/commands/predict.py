"""Predicts classes of pictures: resnet predict --workdir=runs/mine IMAGE|FOLDER …

Images (JPEG, PNG) are decoded, resized, cut, normalised and, with data.eval_flip, seen from both sides as in
the run's evaluation; --config.data.decoder, --config.data.eval_size, --config.data.eval_crop and
--config.data.eval_flip change it.
Shows a table, or with --format=csv or json writes one row an image; with --sheet=FILE.png also draws
the images with their predictions. Everything is read before anything is written.
"""

import csv
import dataclasses
import io
import sys
from typing import Any

from absl import flags

from resnet.cli import options as cli
from resnet.errors import check_choice
from resnet.files import check_suffix, check_writable, creating

SHEET_IMAGES = 64
EVALUATED = ("data.eval_size", "data.eval_crop", "data.eval_flip", "data.decoder")


def define() -> None:
    """Defines the flags of the command."""
    cli.define_path("workdir", None, "Folder of the run.")
    flags.DEFINE_integer("step", None, "Checkpoint to use; by default the latest.")
    flags.DEFINE_integer(
        "top", None, "How many classes are shown, the most probable first; by default 5, or all."
    )
    flags.DEFINE_string(
        "on_bad_image", "error", "What a file that cannot be read does: error, or skip, named in the log."
    )
    flags.DEFINE_string("format", "table", "table, csv or json.")
    cli.define_path("output", None, "File to write instead of standard output.")
    cli.define_path("sheet", None, "PNG file in which the first 64 images are drawn with their predictions.")


def main(overrides: list[str], images: list[str]) -> None:
    """One call of resnet.interop.predict.predict_files."""
    cli.require("workdir")
    check_choice("--format", cli.FLAGS.format, FORMATS)
    check_suffix("--sheet", cli.FLAGS.sheet, ".png")
    from rich import console, progress

    from resnet.interop.predict import contact_sheet, find_images, predict_files
    from resnet.run import load

    files = find_images(images)
    check_writable(cli.FLAGS.output, cli.FLAGS.sheet)
    config = cli.load_run_config(overrides, changeable=EVALUATED)
    run = dataclasses.replace(load(cli.FLAGS.workdir, cli.FLAGS.step), config=config)
    terminal = console.Console(stderr=True)
    with progress.Progress(console=terminal, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("images", total=len(files))
        predictions = predict_files(
            run,
            files,
            top=cli.FLAGS.top,
            on_bad_image=cli.FLAGS.on_bad_image,
            progress=lambda n: bar.update(task, completed=n),
        )
    text = FORMATS[cli.FLAGS.format](predictions, run.task)
    # The names of files may be any bytes, and come out as they are.
    if cli.FLAGS.output:
        with creating(cli.FLAGS.output) as temporary:
            temporary.write_text(text + "\n", "utf-8", "surrogateescape")
    else:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="surrogateescape")
        print(text, flush=True)
    if cli.FLAGS.sheet:
        contact_sheet(run, predictions[:SHEET_IMAGES], cli.FLAGS.sheet)


def as_table(predictions, task) -> str:
    """One line an image: file, then name and probability of each class; of a regression unit and value."""
    import tabulate

    rows = [(p.file, *(f"{name} {value:.4f}" for name, value in p.classes)) for p in predictions]
    return tabulate.tabulate(rows, ["file", *map(str, range(1, len(rows[0])))], disable_numparse=True)


def as_csv(predictions, task) -> str:
    """file, class1, probability1, class2, …; of a regression file, unit, value."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ranks = range(1, len(predictions[0].classes) + 1)
    fields = [field for k in ranks for field in (f"class{k}", f"probability{k}")]
    writer.writerow(["file", *(["unit", "value"] if task.kind == "regression" else fields)])
    for p in predictions:
        writer.writerow([p.file, *(cell for name, value in p.classes for cell in (name, f"{value:.8g}"))])
    return text.getvalue().rstrip("\n")


def as_json(predictions, task) -> str:
    """A list of {"file", "classes": [{"name", "probability"}]}; of a regression {"file", "unit", "value"}."""
    from resnet.runs.metrics.records import to_json

    def fields(found) -> dict[str, Any]:
        if task.kind == "regression":
            return dict(zip(("unit", "value"), found[0], strict=True))
        return {"classes": [{"name": name, "probability": value} for name, value in found]}

    return to_json([{"file": p.file, **fields(p.classes)} for p in predictions], indent=1)


FORMATS = {"table": as_table, "csv": as_csv, "json": as_json}
