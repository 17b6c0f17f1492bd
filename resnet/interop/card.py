"""The model card beside exported weights: what they are, and how to use them."""

from pathlib import Path

from resnet.config import config_to_dict
from resnet.errors import first_of
from resnet.paths import count_elements
from resnet.run import Run
from resnet.runs import provenance
from resnet.runs.metrics.records import RESULT, is_result, read_json, to_json
from resnet.runs.tables import code

CARD = "MODEL_CARD.md"
NO_LICENCE = "not stated; write it here, or export with --licence=…, before passing the weights on"
METRICS = ("split", "top1", "top5", "mae", "loss", "n")
OF_THE_RUN = ("checkpoint", "records", "parallel", "cache")  # sections that do not touch the weights


def model_card(run: Run, call: str, usage: str, licence: str = "") -> str:
    """Markdown: net, task, data, metrics, origin, licence; then `call`, a sentence, with the code `usage`."""
    task = run.task
    height, width, channels = task.image_shape
    weights = count_elements(run.variables["params"])
    config = {name: value for name, value in config_to_dict(run.config).items() if name not in OF_THE_RUN}
    classes = f"{len(task.class_names)} classes: {first_of(task.class_names, 20)}"
    lines = [
        "# Model card",
        "",
        f"- Net: {run.config.model.family} family, {weights:,} parameters, weights of step {run.step}",
        f"- Task: {task.kind} of images of {width}x{height} pixels, {channels} channels{_evaluated(run)}; "
        + (classes if task.class_names else f"answers in {task.unit}, logits times {task.target_scale}"),
        f"- Data: {run.config.data.name}",
        *([f"- Started from: {run.config.init_from}"] if run.config.init_from else []),
        f"- Metrics: {_metrics(run) or 'none recorded for this step'}",
        *_origin(run.workdir),
        f"- Licence: {licence or NO_LICENCE}",
        "",
        call,
        "",
        "```python",
        usage,
        "```",
        "",
        "The config of the run:",
        "",
        "```json",
        to_json(config, indent=1),
        "```",
    ]
    return "\n".join(lines) + "\n"


def _evaluated(run: Run) -> str:
    """Tells in words the part, size and mirror image by which pictures are evaluated; "" if as usual."""
    data, (height, width, _) = run.config.data, run.net.evaluated_shape
    part = f"the middle {data.eval_crop:.1%} of the shorter side" if data.eval_crop else "the whole middle"
    found = [f"on {part} at {width}x{height}"] if data.eval_size or data.eval_crop else []
    found += ["with the mean of the logits of an image and its mirror image"] if data.eval_flip else []
    return f", evaluated {', '.join(found)}" if found else ""


def _metrics(run: Run) -> str:
    """Those of the run's result, if it is of these weights."""
    result = read_json(run.workdir / RESULT, is_result)
    if not result or result["step"] != run.step:
        return ""
    values = {name: result[name] for name in METRICS if name in result}
    return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in values.items())


def _origin(workdir: Path) -> list[str]:
    """By which command and commit the run began; [] where that is not recorded."""
    sessions = provenance.sessions(workdir)
    if not sessions:
        return []
    commit = provenance.commit(sessions[0]) or "unknown"
    return [f"- Made by: {code(sessions[0].get('command') or 'Python')}, commit {commit}"]
