"""What a run leaves to read: metrics.jsonl, TensorBoard, run.json, curves.png; and its progress."""

import contextlib
import datetime
import importlib.metadata
import json
import math
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from absl import logging

METRICS_FILE, RUN_FILE, CURVES_FILE = "metrics.jsonl", "run.json", "curves.png"
TENSORBOARD_FOLDER = "tensorboard"
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
LOG_SECONDS = 30.0  # between two progress lines where there is no terminal

# What curves.png shows: metric, label of the axis, factor on the values, kind of scale.
PANELS = (
    ("loss", "loss", 1.0, "log"),
    ("top1", "top-1 accuracy (%)", 100.0, "linear"),
    ("mae", "mean absolute error", 1.0, "linear"),
)
# Blue and vermilion of Okabe and Ito's palette, told apart by colour-blind eyes and in grey.
STYLES = {
    "train": {"color": "#0072B2", "linestyle": "-"},
    "validation": {"color": "#D55E00", "linestyle": "--", "marker": "o", "markersize": 3},
}


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place, whole, if the block succeeds."""
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def plain(value: Any) -> Any:
    """`value` as JSON has it: scalars of arrays as numbers, NaN and infinities as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    # The standard has no NaN, and most readers turn null into one.
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes one JSON document so that no reader ever sees half of it."""
    with replacing(Path(path)) as temporary:
        temporary.write_text(json.dumps(plain(value), indent=2, allow_nan=False) + "\n")


def read_metrics(workdir: str | os.PathLike) -> list[dict[str, Any]]:
    """The records of a run in the order written; a last line cut short by a kill is left out."""
    records = []
    path = Path(workdir) / METRICS_FILE
    for line in path.read_text().splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            records.append(json.loads(line))
    return records


def forget_after(workdir: Path, step: int) -> None:
    """Drops the records that a run resumed at `step` finished steps will write anew.

    Among them the test split's: it is evaluated after the last checkpoint, at the same step.
    """
    records = read_metrics(workdir) if step else []
    kept = [record for record in records if record["step"] <= step and record["split"] != "test"]
    with replacing(workdir / METRICS_FILE) as temporary:
        temporary.write_text("".join(json.dumps(record) + "\n" for record in kept))


class Records:
    """Metrics and progress of one run, from `step` finished steps on.

    All records of a step but the test split's must be written before its checkpoint is: then a run
    that was killed and resumed holds each record once.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        total_steps: int,
        steps_per_epoch: int,
        step: int = 0,
        tensorboard: bool = True,
    ):
        self.workdir = Path(workdir)
        self.steps_per_epoch = steps_per_epoch
        self.first_step = step
        self.boards: dict[str, Any] | None = {} if tensorboard else None
        self.workdir.mkdir(parents=True, exist_ok=True)
        forget_after(self.workdir, step)
        self.file = (self.workdir / METRICS_FILE).open("a", buffering=1)  # flushed at each line
        self.bar = Progress(total_steps, steps_per_epoch, step)

    def __enter__(self) -> "Records":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def write(self, step: int, metrics: Mapping[str, Any], split: str) -> None:
        """Adds one line after `step` finished steps; not-a-number and infinities become null."""
        record = {"step": step, "epoch": round(step / self.steps_per_epoch, 4), "split": split}
        self.file.write(json.dumps(plain(record | dict(metrics)), allow_nan=False) + "\n")
        if split != "train":
            results = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
            logging.info("epoch %g, %s: %s", record["epoch"], split, results)
        for name, value in metrics.items() if self.boards is not None else ():
            self._board(split).add_scalar(name, value, step)

    def _board(self, split: str) -> Any:
        """One TensorBoard run a split, so that the splits share the axes of a metric."""
        assert self.boards is not None
        if split not in self.boards:
            from tensorboardX import SummaryWriter

            folder = str(self.workdir / TENSORBOARD_FOLDER / split)
            purge = self.first_step + 1 if self.first_step else None
            # The suffix, because file names hold whole seconds, and an older file is overwritten.
            suffix = f".{self.first_step}"
            self.boards[split] = SummaryWriter(str(folder), purge_step=purge, filename_suffix=suffix)
        return self.boards[split]

    def progress(self, step: int, images_per_second: float) -> None:
        """Shows how far the run is: a bar on a terminal, else now and then a line in the log.

        0 images/s stands for a speed not measured yet; the last one known is shown.
        """
        self.bar.show(step, images_per_second)

    def close(self) -> None:
        """Flushes and closes everything; may be called twice."""
        self.bar.close()
        self.file.close()
        for board in (self.boards or {}).values():
            board.close()


class Progress:
    """The way to the last step. Its ETA rests on the steps after the first report of the process, so
    that neither compilation nor the steps of an earlier session count."""

    def __init__(self, total_steps: int, steps_per_epoch: int, step: int):
        self.total_steps, self.steps_per_epoch = total_steps, steps_per_epoch
        self.start: tuple[int, float] | None = None  # step and time of the first report
        self.logged, self.rate = -math.inf, "?"
        self.bar = _terminal_bar(total_steps, step) if sys.stderr.isatty() else None

    def show(self, step: int, images_per_second: float) -> None:
        """Reports `step` finished steps."""
        now = time.monotonic()
        self.start = self.start or (step, now)
        text = self._text(step, images_per_second, now)
        if self.bar:
            self.bar.update(self.bar.task_ids[0], completed=step, text=text)
        elif now - self.logged >= LOG_SECONDS or step == self.total_steps:
            logging.info("step %d of %d, %s", step, self.total_steps, text)
            self.logged = now

    def _text(self, step: int, images_per_second: float, now: float) -> str:
        assert self.start is not None
        done, elapsed = step - self.start[0], now - self.start[1]
        left = elapsed / done * (self.total_steps - step) if done else None
        eta = "?" if left is None else datetime.timedelta(seconds=round(left))
        self.rate = f"{images_per_second:,.0f}" if images_per_second else self.rate
        return f"epoch {step / self.steps_per_epoch:.1f}, {self.rate} images/s, ETA {eta}"

    def close(self) -> None:
        """Gives the terminal back."""
        if self.bar:
            self.bar.stop()
            _log_to_standard_error()
            self.bar = None


def _terminal_bar(total_steps: int, step: int) -> Any:
    """A bar on standard error, for standard output is the result's; log lines pass above it."""
    from rich import console, progress

    texts = progress.MofNCompleteColumn(), progress.TextColumn("{task.fields[text]}")
    screen = console.Console(stderr=True)
    bar = progress.Progress(progress.BarColumn(), *texts, console=screen, redirect_stdout=False)
    bar.add_task("", total=total_steps, completed=step, text="compiling")
    bar.start()
    _log_to_standard_error()
    return bar


def _log_to_standard_error() -> None:
    """absl keeps the stream it found at its start; the bar has put its own in the way since."""
    handler = logging.get_absl_handler()
    handler.python_handler.setStream(sys.stderr)


def write_run_json(
    workdir: str | os.PathLike, config: Mapping[str, Any], command: Sequence[str] | str
) -> None:
    """Adds the session that begins, with all that its numbers depend on, to those that run.json holds."""
    path = Path(workdir) / RUN_FILE
    sessions = json.loads(path.read_text())["sessions"] if path.exists() else []
    session = {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": command if isinstance(command, str) else shlex.join(command),
        "git": git_state(Path(__file__).parents[2]),
        "versions": versions(),
        "devices": devices(),
        "config": config,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"sessions": [*sessions, session]})


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers."""
    found = {"python": platform.python_version()}
    return found | {package: importlib.metadata.version(package) for package in PACKAGES}


def devices() -> dict[str, Any]:
    """The accelerators in use, and the processors of this machine."""
    kinds = [device.device_kind for device in jax.devices()]
    return {"backend": jax.default_backend(), "kinds": kinds, "cpu_count": os.cpu_count()}


def git_state(folder: Path) -> dict[str, Any] | None:
    """The commit checked out in `folder`, and whether files differ from it; None without one."""

    def git(*arguments: str) -> str:
        command = ("git", "-C", str(folder), *arguments)
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != folder.resolve():
            return None
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def plot_curves(workdir: str | os.PathLike) -> Path:
    """Draws training and validation metrics by epoch, the test result in the title; its path."""
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    workdir = Path(workdir)
    records = read_metrics(workdir)
    panels = [panel for panel in PANELS if any(panel[0] in record for record in records)]
    figure = Figure(figsize=(4.5 * max(len(panels), 1), 3.4), layout="constrained", dpi=150)
    for position, panel in enumerate(panels, start=1):
        _draw(figure.add_subplot(1, len(panels), position), records, *panel)
    figure.suptitle(_title(workdir, records), fontsize=11)
    with replacing(workdir / CURVES_FILE) as temporary:
        figure.savefig(temporary, format="png")
    return workdir / CURVES_FILE


def _draw(axes: Any, records: list[dict], metric: str, label: str, factor: float, scale: str):
    """One metric against epochs, one line a split."""
    positive = False
    for split, style in STYLES.items():
        points = [record for record in records if record["split"] == split and metric in record]
        values = [math.nan if r[metric] is None else factor * r[metric] for r in points]
        positive = positive or any(value > 0 for value in values)
        if points:
            axes.plot([record["epoch"] for record in points], values, label=split, **style)
            axes.legend(frameon=False)
    axes.set_yscale(scale if positive else "linear")
    axes.set(xlabel="epoch", ylabel=label)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)


def _title(workdir: Path, records: list[dict]) -> str:
    """The run's name and its last result on the test split."""
    test = next((record for record in reversed(records) if record["split"] == "test"), {})
    parts = [
        f"{label.removesuffix(' (%)')} {factor * test[metric]:.4g}{' %' if '%' in label else ''}"
        for metric, label, factor, _ in PANELS
        if test.get(metric) is not None
    ]
    return workdir.resolve().name + (f"\ntest: {', '.join(parts)}" if parts else "")
