"""Which shortcuts since 2016 are better than the identity? Against it and against none, at two depths.

Each net at its best rate of one grid, chosen on validation by three seeds. RepVGG and DiracNet have blocks of
one convolution, so twice as many of them; LayerScale starts at 0.1, its value for 18 layers. All but DiracNet
have ReLU after the sum; since_2016_preactivation.py has those that their papers define before it.
Source: docs/shortcuts.md names the paper of each; data and recipe are ours.
Command: python scripts/study.py --study=configs/studies/since_2016.py --workdir=runs/since_2016
"""

from configs.cifar10_resnet110 import get_config as cifar10
from configs.digits_small import get_config as digits
from resnet.studies.study import Arm, Study

SHORTCUT, BRANCH = "model.shortcut", "model.branch"
CHANGES = {"identity": {}, "none": {SHORTCUT: "none"}, "depth-scaled": {SHORTCUT: "depth_scaled"}}
CHANGES["decayed"] = {SHORTCUT: "decayed_identity", "model.shortcut_scale": 0.6}
CHANGES["decayed-zero"] = CHANGES["decayed"] | {"model.zero_gamma": True}  # its paper starts branches at 0
CHANGES |= {name: {SHORTCUT: name} for name in ("orthogonal", "laurel")}
CHANGES["layer-scale"] = {SHORTCUT: "layer_scale", "model.layer_scale": 0.1}
CHANGES["repvgg"] = {SHORTCUT: "repvgg", BRANCH: "single"}
CHANGES["hyper"] = {SHORTCUT: "hyper_dynamic"}
CHANGES["dirac"] = {SHORTCUT: "none", BRANCH: "dirac"}


def get_study(scale: str) -> Study:
    base, depths = {"paper": (cifar10(), (56, 110)), "small": (digits(), (20, 56))}[scale]
    base.model.scan_blocks = True  # else most of a small run is compiling
    at = [(name, depth) for depth in depths for name in CHANGES]
    arms = {f"{n}-{d}": Arm({"model.depth": d} | CHANGES[n], f"identity-{d}") for n, d in at}
    return Study("Shortcuts since 2016", base, arms, next(iter(arms)), learning_rates=(0.02, 0.05, 0.1))
