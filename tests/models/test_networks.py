"""Sizes and costs of the networks, against the published ones."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sam_bench.errors import ConfigError
from sam_bench.models.registry import MODELS, model

PUBLISHED = {
    "resnet20": (269_722, 0.081),
    "resnet56": (853_018, 0.251),
    "resnet18": (11_173_962, 1.111),
    "wrn16_4": (2_748_890, 0.785),
    "wrn16_8": (10_961_370, 3.096),
    "wrn28_2": (1_467_610, 0.429),
    "wrn28_10": (36_479_194, 10.487),
    "pyramidnet110": (28_485_477, 9.436),
    "pyramidnet272": (26_210_842, 8.978),
}
COUNTED = {"wrn22_8": (17_158_106, 4.908), "resnet8": (75_290, 0.024), "resnext29_32x4d": (4_775_754, 1.548)}
"""The first count is published, its cost is not; of the others nothing is: they guard against change."""

OWN = [name for name in MODELS if name != "torchvision"]


def test_every_network_is_counted():
    assert set(OWN) == PUBLISHED.keys() | COUNTED.keys()


@pytest.mark.parametrize("name", OWN)
def test_parameters_and_operations_are_the_published_ones(name):
    parameters, gigaflop = (PUBLISHED | COUNTED)[name]
    with torch.device("meta"):
        network = model(name)
    counter = FlopCounterMode(display=False)
    with counter:
        logits = network(torch.empty(1, 3, 32, 32, device="meta"))
    assert logits.shape == (1, 10)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert counter.get_total_flops() / 1e9 == pytest.approx(gigaflop, abs=5e-4)


@pytest.mark.parametrize("name", ["wrn16_8", "wrn22_8"])
def test_wide_networks_start_as_the_sam_example_has_it(name):
    network = model(name)
    assert not network.classifier.weight.any()
    assert not network.classifier.bias.any()
    convolution = network.blocks[0].conv1.weight
    fan_in = convolution[0].numel()
    assert convolution.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.05)
    assert all(m.bias is None for m in network.modules() if isinstance(m, torch.nn.Conv2d))


def test_an_unknown_network_is_refused_with_a_suggestion():
    with pytest.raises(ConfigError, match="did you mean wrn16_8"):
        model("wrn16_9")


@pytest.mark.parametrize("arch", ["resnet18", "densenet121", "mobilenet_v3_small", "vgg11_bn"])
def test_torchvisions_classifiers_give_ten_logits(arch):
    network = model("torchvision", arch=arch).eval()
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(
    ("arch", "said"),
    [
        ("resnet19", "did you mean resnet1"),
        ("vit_b_16", "32×32"),
        ("googlenet", "ten logits"),
        ("deeplabv3_resnet50", "does not exist"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*default weight initialization:FutureWarning")
def test_torchvisions_others_are_refused(arch, said):
    with pytest.raises((ConfigError, ValueError), match=said):
        model("torchvision", arch=arch)
