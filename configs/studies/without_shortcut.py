"""What can stand in for the shortcut at 56 layers? Tailored activations, other kernels, a longer training.

Each net at its best rate of one grid, chosen on validation by three seeds. `repvgg` has shortcuts in training
alone: folded, it is the same net without. `tat` and `dks` have no norm; Muon stands for their papers' K-FAC.
Source: docs/shortcuts.md; Xiao 2018 (arXiv 1806.05393) for the orthogonal start; data and recipe are ours.
Command: python scripts/study.py --study=configs/studies/without_shortcut.py --workdir=runs/without_shortcut
"""

from configs.cifar10_resnet110 import get_config as cifar10
from configs.digits_small import get_config as digits
from resnet.studies.study import Arm, Study

NONE = {"model.shortcut": "none"}
BARE = NONE | {"model.norm": "none", "model.ghost_batch": 0, "model.activation_order": "preactivation"}
BARE |= {"model.kernel_init": "scaled_delta_orthogonal"}


def get_study(scale: str) -> Study:
    base, longer = {"paper": (cifar10(), "192000 steps"), "small": (digits(), "45 epochs")}[scale]
    base.model.depth, base.model.scan_blocks = 56, True
    base.schedule.milestones = ("50 %", "75 %") if scale == "paper" else base.schedule.milestones
    changes = {"identity": {}, "none": NONE, "longer": NONE | {"train.duration": longer}}
    changes["orthogonal-start"] = NONE | {"model.kernel_init": "delta_orthogonal"}
    tailored = {"tat": "tat_relu", "dks": "dks_softplus"}
    changes |= {name: BARE | {"model.activation": function} for name, function in tailored.items()}
    changes |= {f"{n}-muon": changes[n] | {"optimizer.name": "muon"} for n in tailored}
    changes["dirac"] = NONE | {"model.branch": "dirac"}
    changes["repvgg"] = {"model.shortcut": "repvgg", "model.branch": "single"}
    arms, rates = {name: Arm(change) for name, change in changes.items()}, (0.02, 0.05, 0.1)
    return Study("What stands in for the shortcut", base, arms, "identity", learning_rates=rates)
