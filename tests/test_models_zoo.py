"""Published nets have the counts that their sources give."""

import pytest

from resnet.models.counts import count_parts, totals
from resnet.models.grammar import check_net
from resnet.models.zoo import ZOO
from tests.few import few


@pytest.mark.parametrize("name", few(8, ZOO))
def test_counts_are_those_of_the_source(name):
    net = ZOO[name]
    check_net(net.config)
    parameters, macs = totals(count_parts(net.config, net.num_outputs, net.image_shape))
    assert parameters == net.parameters
    assert net.macs in (macs, None)
    assert net.source


def test_every_net_that_users_ask_for_is_there():
    names = {f"resnet{depth}" for depth in (20, 32, 44, 56, 110, 1202, 18, 34, 50, 101, 152, 200, 164, 1001)}
    names |= {"preact110", "preact164", "preact1001", "wrn16_4", "wrn28_10", "wrn40_4", "resnext50_32x4d"}
    names |= {"resnet50_v1", "resnet50d", "seresnet50", "resnetrs50", "resnetrs420", "resnext29_8x64d"}
    names |= {"highway110", "fixup110", "nf_resnet50", "resnetv2_50x1_bit", "gate110", "resnet110_c"}
    assert names <= set(ZOO)
