"""Tests of the networks: parameters, operations, names and settings."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sam_bench.cli import compose
from sam_bench.errors import ConfigError
from sam_bench.models.registry import MODELS, member, model
from sam_bench.report.estimate import GIGAFLOP
from tests.conftest import network, options

#: Numbers of parameters, as published.
PUBLISHED = {
    "resnet20": 269_722,
    "resnet56": 853_018,
    "resnet18": 11_173_962,
    "wrn16_4": 2_748_890,
    "wrn16_8": 10_961_370,
    "wrn28_2": 1_467_610,
    "wrn28_10": 36_479_194,
    "pyramidnet110": 28_485_477,
    "pyramidnet272": 26_210_842,
    "wrn22_8": 17_158_106,
}

#: Numbers of parameters that we counted ourselves: they only guard against changes.
COUNTED = {"resnet8": 75_290, "resnext29_32x4d": 4_775_754, "airbench94": 1_971_640, "airbench96": 9_915_704}

#: All presets but torchvision.
OWN = [name for name in options("model") if name != "torchvision"]


def test_every_network_has_known_size_and_cost():
    assert set(OWN) == PUBLISHED.keys() | COUNTED.keys() == GIGAFLOP.keys()


@pytest.mark.parametrize("name", OWN)
def test_network_has_known_parameters_and_operations(name):
    with torch.device("meta"):
        built = network(name)
    counter = FlopCounterMode(display=False)
    with counter:
        logits = built(torch.empty(1, 3, 32, 32, device="meta"))

    assert logits.shape == (1, 10)
    assert sum(p.numel() for p in built.parameters()) == (PUBLISHED | COUNTED)[name]
    assert counter.get_total_flops() / 1e9 == pytest.approx(GIGAFLOP[name], abs=5e-4)


@pytest.mark.parametrize("name", [*OWN, "resnet18", "torchvision"])
def test_member_gives_family_and_options(name):
    config = compose.compose([f"model={name}"]).model
    family, options = member(config.name)
    assert family == config.family
    assert options.items() <= config.options().items()
    assert config.options().keys() - options.keys() <= {"arch"}


@pytest.mark.parametrize("name", ["resnet9000", "resnet", "wrn16", "lenet5"])
def test_member_unknown_name_is_refused(name):
    with pytest.raises(ConfigError, match=name):
        member(name)


@pytest.mark.parametrize("name", ["wrn16_8", "wrn22_8"])
def test_wide_resnet_starts_as_in_sam_example(name):
    built = network(name)
    assert not built.classifier.weight.any()
    assert not built.classifier.bias.any()
    convolution = built.blocks[0].conv1.weight
    fan_in = convolution[0].numel()
    assert convolution.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.05)
    assert all(m.bias is None for m in built.modules() if isinstance(m, torch.nn.Conv2d))


def test_unknown_family_gets_suggestion():
    with pytest.raises(ConfigError, match="did you mean wide_resnet"):
        model("wide_resnt", classes=10, depth=16, width=8)


@pytest.mark.parametrize("name", options("model"))
def test_network_has_one_logit_per_class(name):
    with torch.device("meta"):
        built = network(name, "data=cifar100")
    assert built(torch.empty(2, 3, 32, 32, device="meta")).shape == (2, 100)


def test_presets_cover_families_under_their_names():
    configs = {name: compose.compose([f"model={name}"]).model for name in options("model")}
    assert {config.family for config in configs.values()} == set(MODELS)
    assert all(config.name == config.identity()["name"] == name for name, config in configs.items())


@pytest.mark.parametrize(
    ("overrides", "title", "parameters"),
    [
        (["model=resnet8", "model.depth=20"], "resnet20", 269_722),
        (["model=wrn16_8", "model.depth=22"], "wrn22_8", 17_158_106),
        (["model=wrn28_10", "model.depth=40", "model.width=4"], "wrn40_4", 8_949_210),
        (["model=resnet18", "model.depth=34"], "resnet34", 21_282_122),
        (["model=resnext29_32x4d", "model.groups=8", "model.group_width=64"], "resnext29_8x64d", 34_426_698),
        (["model=pyramidnet110", "model.alpha=48"], "pyramidnet110_48", 1_772_706),
        (["model=pyramidnet272", "model.depth=164", "model.alpha=270"], "pyramidnet164_270_bottleneck", 27_216_021),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_settings_change_network_title_and_identity(overrides, title, parameters):
    config = compose.compose(overrides).model
    assert config.title == title
    assert config.identity() == {"name": title}
    with torch.device("meta"):
        built = network(overrides[0].removeprefix("model="), *overrides[1:])
    assert sum(p.numel() for p in built.parameters()) == parameters


def test_torchvision_title_names_the_architecture():
    config = compose.compose(["model=torchvision", "model.arch=densenet121"]).model
    assert config.title == "torchvision-densenet121"
    assert config.identity() == {"name": "torchvision", "arch": "densenet121"}


@pytest.mark.parametrize("arch", ["resnet18", "densenet121", "mobilenet_v3_small", "vgg11_bn"])
def test_torchvision_network_has_one_logit_per_class(arch):
    built = model("torchvision", classes=10, arch=arch).eval()
    assert built(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("resnet19", "did you mean resnet1"),
        ("vit_b_16", "32×32"),
        ("googlenet", "10 logits"),
        ("deeplabv3_resnet50", "does not exist"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*default weight initialization:FutureWarning")
def test_unsuitable_torchvision_network_is_refused(arch, message):
    with pytest.raises((ConfigError, ValueError), match=message):
        model("torchvision", classes=10, arch=arch)
