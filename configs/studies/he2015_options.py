"""Options A, B and C: zero padding, projections where the shape changes, projections in every block.

Source: He 2015 (arXiv 1512.03385), Table 3: ResNet-34 on ImageNet, 10-crop top-1 error, A 25.03, B 24.52,
C 24.19 %. The study asks the same of ResNet-110 on CIFAR-10, for which nothing is published but A
(6.61 ± 0.16 %); He 2016, Table 1, has C as "1x1 conv shortcut": 12.22 %.
Command: python scripts/study.py --study=configs/studies/he2015_options.py --workdir=runs/he2015_options
"""

from configs.cifar10_resnet110 import get_config as cifar10
from configs.digits_small import get_config as digits
from resnet.studies.study import Arm, Published, Study


def get_study(scale: str) -> Study:
    base, depth = {"paper": (cifar10(), 110), "small": (digits(), 20)}[scale]
    net, better = {"model.depth": depth}, "better"
    he2015 = Published(6.61, words="6.61 ± 0.16, 5 runs", source="He 2015 (arXiv 1512.03385), Table 6")
    arms = {
        "A": Arm(net, published=he2015),
        "B": Arm(net | {"model.transition": "projection"}, published=Published(than_reference=better)),
        "C": Arm(net | {"model.shortcut": "projection"}, published=Published(than_reference=better)),
    }
    return Study(
        title="Zero padding, projections where the shape changes, projections everywhere",
        base=base,
        arms=arms,
        reference="A",
        paper="He 2015 (arXiv 1512.03385)",
        table="Table 3, on other data",
    )
