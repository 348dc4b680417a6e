"""Tests of airbench94's protocol: each part of it, and a whole run against a plain loop."""

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sam_bench.cli.compose import compose
from sam_bench.data.batches import Batch
from sam_bench.errors import ConfigError
from sam_bench.optim.registry import method
from sam_bench.runs.spec import RunSpec
from sam_bench.runtime.device import Hardware
from sam_bench.runtime.distributed import Processes
from sam_bench.training.build import build_network, load_data, parameter_groups, prepare
from sam_bench.training.step import CapturedStep, Step
from tests.conftest import TINY
from tests.training.tape import Tape

CPU = Hardware(torch.device("cpu"), "fp32")

#: Five epochs of three steps; each epoch leaves out two images.
SHORT = [
    "experiment=airbench94",
    *TINY,
    "data.train_subset=50",
    "trainer.batch_size=16",
    "trainer.epochs=5",
    "trainer.precision=fp32",
]


def prepare_run(*overrides: str):
    """Return the training of a run before its first step."""
    config = compose([*SHORT, "trainer.device=cpu", *overrides])
    spec = RunSpec.resolve(config)
    return prepare(config, load_data(config.data), spec.hardware, spec.engine, Processes("cpu"))


def small_network() -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 8, stride=8), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 10)
    return nn.Sequential(*layers)


def random_batch(count: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, 32, 32, generator=generator)
    return Batch(images, torch.randint(0, 10, (count,), generator=generator))


# Parameter groups


def test_parameter_groups_separate_norm_biases():
    base = compose(["experiment=airbench94"]).optimizer.base
    network = build_network(compose(["experiment=airbench94"]))
    others, biases = parameter_groups(network, base)

    assert all(".norm" in name and name.endswith("bias") for name, _ in biases["params"])
    assert not any(".norm" in name for name, _ in others["params"])
    assert len(others["params"]) + len(biases["params"]) == len(list(network.parameters()))

    scale = 1024 * (1 + 1 / (1 - 0.85))
    assert base.lr == pytest.approx(11.5 / scale, rel=1e-14)
    assert biases["lr"] == pytest.approx(64 * 11.5 / scale, rel=1e-14)
    for lr, decay in ((base.lr, base.weight_decay), (biases["lr"], biases["weight_decay"])):
        assert lr * decay == pytest.approx(0.0153 * 1024 / scale, rel=1e-14)


def test_parameter_groups_at_factor_one_are_plain():
    base = compose(["experiment=smoke"]).optimizer.base
    network = small_network()
    assert [name for name, _ in parameter_groups(network, base)] == [name for name, _ in network.named_parameters()]


def test_parameter_groups_without_norm_are_refused():
    base = compose(["experiment=airbench94"]).optimizer.base
    with pytest.raises(ConfigError, match=r"norm_bias_lr_factor=64\.0"):
        parameter_groups(nn.Linear(2, 2), base)


@pytest.mark.parametrize("on_device", [False, True])
def test_set_rates_gives_each_group_its_rate(on_device):
    network = small_network()
    groups = [{"params": network[0].parameters()}, {"params": network[1].parameters(), "lr_factor": 8.0}]
    optimizer = method("sam")(groups, torch.optim.SGD, model=network, lr=0.1)
    step = Step(network, optimizer, CPU, Processes("cpu"), 0.0, rates_on_device=on_device)
    for lr in (0.5, 0.25):
        step.set_rates(lr, 0.1)
        assert [float(group["lr"]) for group in optimizer.param_groups] == [lr, 8 * lr]
        assert [float(group["rho"]) for group in optimizer.param_groups] == pytest.approx([0.1, 0.1])


# The summed loss


@pytest.mark.parametrize("options", [{}, {"m": 4}, {"micro_batch_size": 3}], ids=str)
@pytest.mark.parametrize("name", ["sgd", "sam"])
def test_summed_loss_equals_mean_at_greater_rate(name, options):
    weights, losses = [], []
    for sums_loss, lr in ((True, 0.01), (False, 0.12)):
        network = small_network().double()
        optimizer = method(name)(network.parameters(), torch.optim.SGD, model=network, lr=lr)
        step = Step(network, optimizer, CPU, Processes("cpu"), 0.2, sums_loss=sums_loss, **options)
        batch = random_batch(12).each(lambda x: x.double() if x.is_floating_point() else x)
        for _ in range(3):
            step.set_rates(lr, None if name == "sgd" else 0.05)
            step(batch)
        weights.append([p.detach() for p in network.parameters()])
        losses.append(step.read()["train_loss"])

    assert losses[0] == pytest.approx(losses[1], rel=1e-10)
    for a, b in zip(*weights, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


# Parameters frozen during a run


def test_freeze_ends_training_of_parameter(small_synthetic):
    training = prepare_run("averaging=none", "optimizer=sam")
    bias, filters = training.model.whitening.bias, training.model.whitening.weight.clone()
    values = [bias.detach().clone()]
    for epoch_done in training.run():
        if epoch_done:
            values.append(bias.detach().clone())

    assert [not torch.equal(a, b) for a, b in itertools.pairwise(values)] == [True] * 3 + [False] * 2
    assert torch.equal(training.model.whitening.weight, filters)


def test_freeze_of_unknown_parameter_is_refused():
    with pytest.raises(ConfigError, match=r"whitening\.bais"):
        build_network(compose(["experiment=airbench94", "trainer.freeze=[whitening.bais]"]))


def test_freeze_without_epochs_is_refused():
    with pytest.raises(ConfigError, match="freeze_after"):
        compose(["trainer.freeze=[classifier.bias]"])


def test_frozen_step_is_captured_again():
    network = small_network()
    options = {"lr": 0.1, "momentum": 0.9, "fused": True}
    optimizer = method("sam")(network.parameters(), torch.optim.SGD, model=network, **options)
    step = CapturedStep(network, optimizer, CPU, Processes("cpu"), 0.0, capturer=Tape())

    for frozen in (False, True):
        network[4].bias.requires_grad_(not frozen)
        step.recapture()
        for number in range(5):
            before = network[4].bias.detach().clone()
            step.set_rates(0.1, 0.05)
            step(random_batch(8))
            assert torch.equal(before, network[4].bias) == frozen, (frozen, number)
        assert step.captured


# Whole runs


def train_plainly(training, epochs: int) -> dict[str, torch.Tensor]:
    """Train with SGD as airbench94's author does, in a plain loop; return the averaged state.

    The batches are those of the run; all else is written out here.
    """
    network = training.model
    batches = [[(b.images, b.labels) for b in training.train.epoch(epoch)] for epoch in range(epochs)]
    total = sum(map(len, batches))

    # Two parameter groups: biases of normalisation layers have 64 times the learning rate.
    scale = 1024 * (1 + 1 / 0.15)
    lr, decay = 11.5 / scale, 0.0153 * 1024 / scale
    biases = [p for name, p in network.named_parameters() if ".norm" in name]
    others = [p for name, p in network.named_parameters() if ".norm" not in name and name != "whitening.weight"]
    optimizer = torch.optim.SGD(
        [
            {"params": biases, "lr": 64 * lr, "weight_decay": decay / (64 * lr)},
            {"params": others, "lr": lr, "weight_decay": decay / lr},
        ],
        momentum=0.85,
        nesterov=True,
    )
    rates = np.interp(range(total), [0, int(0.23 * total), total], [0.2, 1, 0.07])
    mean = {name: value.clone() for name, value in network.state_dict().items()}

    t = 0
    network.train()
    for epoch, epoch_batches in enumerate(batches):
        network.whitening.bias.requires_grad_(epoch < 3)
        for images, labels in epoch_batches:
            for group, greatest in zip(optimizer.param_groups, (64 * lr, lr), strict=True):
                group["lr"] = greatest * rates[t]

            optimizer.zero_grad()
            F.cross_entropy(network(images), labels, label_smoothing=0.2, reduction="sum").backward()
            optimizer.step()
            t += 1

            # Lookahead.
            if t % 5 == 0:
                a = 0.95**5 * (t / total) ** 3
                for name, value in network.state_dict().items():
                    if value.is_floating_point():
                        mean[name].lerp_(value, 1 - a)
                        value.copy_(mean[name])
    return mean


def test_airbench94_run_equals_plain_loop(small_synthetic):
    expected = train_plainly(prepare_run(), epochs=5)

    training = prepare_run()
    for _ in training.run():
        pass

    assert training.done == 15
    for name, value in training.model.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-4)


def test_record_with_views_has_second_error(tiny_run):
    record = tiny_run(*SHORT, "trainer.epochs=1", "trainer.freeze_after=1")
    assert 0 <= record["test_error_tta"] <= 100
    assert record["test_error"] == record["history"]["test_error"][-1]
    assert record["averaged"] == {}


def test_record_without_views_has_no_second_error(tiny_run):
    assert "test_error_tta" not in tiny_run("model=resnet8")


def test_lookahead_on_averaging_base_is_refused():
    with pytest.raises(ConfigError, match="averaging=none"):
        compose(["averaging=lookahead", "optimizer/base=schedule_free", "optimizer=sgd"])


def test_triangular_with_warmup_is_refused():
    with pytest.raises(ConfigError, match="schedule=triangular"):
        compose(["schedule=triangular", "schedule.warmup_epochs=1"])


def test_alternate_flips_without_flip_are_refused():
    with pytest.raises(ConfigError, match=r"data\.flip"):
        compose(["data.alternate_flips=true", "data.flip=false"])
