"""Runs a study: resnet study --study=shortcut_on_off --workdir=runs/on_off

Arms times seeds, each an ordinary run in its own folder. Run again, it goes on where it stopped;
arms and seeds can be added later. --study.scale=small takes two CPU cores minutes to days, paper a GPU hours
to days; --dry_run estimates it.
--config.section.field=value changes the base of all arms. --launcher=slurm submits an array job, whose jobs
resume after preemption; the same command tells how far they are, and submits what no job is left for.
--kept=results/studies/NAME goes on with a study of which only its page is left, on another machine for one.
Prints how many runs are in which state.
"""

from absl import flags

from resnet.cli import options as cli


def define() -> None:
    """Defines the flags of the command."""
    cli.define_path(
        "study",
        None,
        "Study by name, e.g. he2015_depth, or file: Python code with a function get_study(scale).",
    )
    cli.define_path("workdir", None, "Folder of the study; each run has one in it.")
    flags.DEFINE_string("study.scale", "paper", "paper or small.")
    flags.DEFINE_list(
        "study.seeds",
        None,
        "Seeds, with commas between, instead of those in the file. Those of its folder stay.",
    )
    flags.DEFINE_list("only", [], "Arms to run, with commas between; the others wait.")
    flags.DEFINE_bool("dry_run", False, "List the runs, their parameters, time and memory; train nothing.")
    flags.DEFINE_bool("retry", False, "Run again what failed.")
    cli.define_path(
        "kept",
        None,
        "Folder of runs.csv and report.md that are kept of this study: the runs that ended there count.",
    )
    flags.DEFINE_integer(
        "seeds_together", None, "Most seeds of an arm in one program, and job; all by default."
    )
    flags.DEFINE_integer(
        "jobs", 1, "Runs, or groups of seeds, at once, each in a process with its share of the processors."
    )
    flags.DEFINE_string("launcher", "local", "local, or slurm: submit an array job, and return at once.")
    flags.DEFINE_list(
        "slurm",
        [],
        "partition=…,time=MINUTES,cpus_per_task=…,gpus_per_node=…,mem=… of each job; with nodes=… or "
        "ntasks_per_node=…, its tasks train each run together.",
    )


def main(overrides: list[str]) -> dict:
    """One call of resnet.studies.launch.launch."""
    cli.require("study", "workdir")
    from resnet.studies.launch import launch

    study = cli.chosen_study(overrides)
    return launch(
        study,
        cli.FLAGS.workdir,
        only=tuple(cli.FLAGS.only),
        dry_run=cli.FLAGS.dry_run,
        retry=cli.FLAGS.retry,
        kept=cli.FLAGS.kept,
        seeds_together=cli.FLAGS.seeds_together,
        launcher=cli.FLAGS.launcher,
        jobs=cli.FLAGS.jobs,
        slurm=dict(_pair(text) for text in cli.FLAGS.slurm),
        command=cli.command(),
    )


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise cli.InputError(f"--slurm takes name=value, with commas between; got {text!r}")
    return name, value
