"""What are weights worth that saw other classes? Digits 5 to 9 with few labels, from a net of 0 to 4.

Source: a question of ours, after Yosinski 2014 (arXiv 1411.1792); no table of a paper.
Command: python scripts/train.py --config=configs/digits_low.py --workdir=runs/digits_low, then
python scripts/study.py --study=configs/studies/finetune.py --study.scale=small --workdir=runs/finetune
"""

from configs.digits_low import get_config as digits
from resnet.errors import check_choice
from resnet.studies.study import Arm, Study

SOURCE = "runs/digits_low"
BACKBONE = r"^(stem|stage\d)/"
LABELS = (25, 50, 100)  # in all, a fifth of them of each class


def get_study(scale: str) -> Study:
    check_choice("study.scale", scale, ("small",))
    base = digits()
    base.data.classes = ("5", "6", "7", "8", "9")
    base.train.batch_size, base.train.duration = 25, "300 steps"
    taken = {"init_from": SOURCE, "init_drop": "^head/"}
    frozen = taken | {"freeze": BACKBONE, "model.bn_fixed": BACKBONE}
    arms = {}
    for labels in LABELS:
        for name, changes in (("scratch", {}), ("tuned", taken), ("frozen", frozen)):
            changes = {"data.train_limit": labels} | changes
            arms[f"{name}-{labels}"] = Arm(changes, reference=f"scratch-{labels}")
    return Study(
        title="Digits 5 to 9 with few labels: from scratch, fine-tuned, and with a frozen backbone",
        base=base,
        arms=arms,
        reference=f"scratch-{LABELS[0]}",
        learning_rates=(0.01, 0.03, 0.1),
        note=f"Source: {SOURCE}, trained on the digits 0 to 4 (configs/digits_low.py), one seed. tuned: its "
        "weights, a new head, everything trained. frozen: the same, but all of it with its batch statistics "
        "stays as it is, and the head alone is trained. The labelled images are the same in all seeds, "
        "which draw heads (from scratch: all weights), the order of batches and shifts.",
    )
