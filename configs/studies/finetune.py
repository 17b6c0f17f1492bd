"""What are weights worth that saw other classes? Digits 5 to 9 with few labels, from a net of 0 to 4.

Source: a question of ours, after Yosinski 2014 (arXiv 1411.1792); no table of a paper. Runs long or short.
Command: python scripts/train.py --config=configs/digits_low.py --workdir=runs/digits_low, then
python scripts/study.py --study=configs/studies/finetune.py --study.scale=small --workdir=runs/finetune
"""

from configs.digits_low import get_config as digits
from resnet.errors import check_choice
from resnet.studies.study import Arm, Study

SOURCE, BACKBONE = "runs/digits_low", r"^(stem|stage\d)/"


def get_study(scale: str) -> Study:
    check_choice("study.scale", scale, ("small",))
    base = digits()
    base.data.classes, base.train.batch_size = ("5", "6", "7", "8", "9"), 25
    tuned = {"init_from": SOURCE, "init_drop": "^head/"}
    frozen = tuned | {"freeze": BACKBONE, "model.bn_fixed": BACKBONE}
    arms = {}
    for length, steps in (("", "300 steps"), ("-short", "30 steps")):
        for labels in (25, 50, 100):  # in all, a fifth of them of each class
            own = {"data.train_limit": labels, "train.duration": steps}
            for method, changes in (("scratch", {}), ("tuned", tuned), ("frozen", frozen)):
                arms[f"{method}-{labels}{length}"] = Arm(own | changes, f"scratch-{labels}{length}")
    title = "Digits 5 to 9 with few labels: from scratch, fine-tuned, and with a frozen backbone"
    note = "tuned: weights of a net of 0 to 4, a new head. frozen: of it only the head is trained."
    rates = (0.01, 0.03, 0.1)
    return Study(title, base, arms, "scratch-25", learning_rates=rates, grid_seeds=1, note=note)
