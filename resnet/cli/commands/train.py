"""Trains a net: resnet train --config=digits --workdir=runs/digits

Any field of the config is overridden by --config.section.field=value. Run again, it resumes; a
finished run prints its result and does nothing. Prints the result as one JSON object.

With --dry_run nothing is trained or written: some images are decoded and some steps taken, and their speeds,
the memory, the hours to the end and what to change are printed. It needs no workdir. With --trace=FOLDER
it also writes there what the processor and the devices do in five steps, for ui.perfetto.dev or XProf.

Several processes share the images of each batch, under srun, or each started with its number:
resnet train --config=… --workdir=… --coordinator=host:port --processes=2 --process=0
"""

from absl import flags

from resnet.cli import options as cli
from resnet.errors import first_of
from resnet.files import check_writable


def define() -> None:
    """Defines the flags of the command."""
    cli.define_config()
    cli.define_path("workdir", None, "Folder of the run: config, checkpoints, metrics, plots and result.")
    flags.DEFINE_bool(
        "dry_run", False, "Try some images and steps, say what the training takes, write nothing."
    )
    cli.define_path("trace", None, "Folder for a profiler's trace of some steps; with --dry_run.")
    flags.DEFINE_string(
        "coordinator", "", "host:port where several processes meet; auto: as their launcher has it."
    )
    flags.DEFINE_integer("processes", 0, "How many processes meet there.")
    flags.DEFINE_integer("process", -1, "Which of them this is, from 0.")


def main(overrides: list[str]) -> dict | None:
    """Trains by resnet.training.loop.train, or tries the training out by resnet.runs.dry_run.dry_run."""
    cli.require("config", *([] if cli.FLAGS.dry_run else ["workdir"]))
    if not cli.FLAGS.dry_run:
        cli.refuse("a run, only with --dry_run", "trace")
    from resnet.runtime.processes import in_all, index_of_this, together

    options = cli.FLAGS
    with together(options.coordinator, options.processes, options.process):
        config = in_all(lambda: cli.chosen_config(overrides))
        # Imported after the checks, so that a mistyped field is answered at once.
        if options.dry_run:
            from resnet.runs.dry_run import dry_run

            check_writable(options.trace and options.trace / "trace")
            result = dry_run(config, options.trace)
        else:
            from resnet.training.loop import train

            result = train(config, options.workdir, command=cli.command())
        first = not index_of_this()
    if not first:
        return None
    _stop_if_seeds_failed(result)
    return result


def _stop_if_seeds_failed(result: dict) -> None:
    """Prints the result and raises RunStopped if some of several seeds failed."""
    from resnet.runtime.signals import RunStopped

    runs = result.get("runs", ())
    if failed := [run["workdir"] for run in runs if "failed" in run]:
        cli.print_result(result)
        raise RunStopped(f"{len(failed)} of {len(runs)} seeds failed: {first_of(failed)}", exit_code=1)
