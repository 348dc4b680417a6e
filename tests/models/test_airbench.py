"""Tests of the airbench networks against plain computations in float64."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sam_bench.models.airbench import PLANS, WHITENING_IMAGES, Airbench, whitening_filters
from sam_bench.optim.registry import method


def images(count: int = 6) -> torch.Tensor:
    """Draw smooth images: their patches vary much more in some directions than in others."""
    drawn = torch.randn(count, 3, 34, 34, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return F.avg_pool2d(drawn, 3, 1) + 0.3


def trained_network(accuracy: int) -> Airbench:
    """Return a network in float64 whose biases and running means are not 0."""
    torch.manual_seed(0)
    network = Airbench(accuracy, classes=10).double()
    network.set_from_images(images())
    for name, value in [*network.named_parameters(), *network.named_buffers()]:
        if name.endswith(("bias", "running_mean")):
            value.data.normal_(std=0.1)
    return network.eval()


def count_parameters(accuracy: int) -> int:
    """Count the parameters from the networks' widths."""
    widths = {94: (64, 256, 256), 96: (128, 384, 512)}[accuracy]
    further_convolutions = {94: 1, 96: 2}[accuracy]
    count, channels = 24 * 3 * 2 * 2 + 24, 24
    for width in widths:
        count += 9 * channels * width + width + further_convolutions * (9 * width * width + width)
        channels = width
    return count + 10 * channels


@pytest.mark.parametrize("accuracy", [94, 96])
def test_airbench_has_known_parameter_count(accuracy):
    network = Airbench(accuracy, classes=10)
    assert sum(p.numel() for p in network.parameters()) == count_parameters(accuracy)


@pytest.mark.parametrize("accuracy", [94, 96])
def test_airbench_equals_plain_forward(accuracy):
    network, x = trained_network(accuracy), images()
    state = network.state_dict()

    def normalised(x, name):
        mean, variance = (state[f"{name}.running_{which}"][:, None, None] for which in ("mean", "var"))
        return (x - mean) / torch.sqrt(variance + 1e-12) + state[f"{name}.bias"][:, None, None]

    def activated(x):
        return x * (1 + torch.erf(x / 2**0.5)) / 2

    # The whitening convolution.
    y = activated(F.conv2d(x, state["whitening.weight"], state["whitening.bias"]))
    assert y.shape[2:] == (31, 31)

    # Three blocks; airbench96 has a skip connection and one more convolution in each.
    for i in range(3):
        block = f"blocks.{i}"
        y = F.max_pool2d(F.conv2d(y, state[f"{block}.conv1.weight"], padding=1), 2)
        y = first = activated(normalised(y, f"{block}.norm1"))
        y = normalised(F.conv2d(y, state[f"{block}.convs.0.weight"], padding=1), f"{block}.norms.0")
        if accuracy == 96:
            y = F.conv2d(activated(y), state[f"{block}.convs.1.weight"], padding=1)
            y = normalised(y, f"{block}.norms.1") + first
        y = activated(y)

    # The maximum over the image, and the classifier.
    assert y.shape[2:] == (3, 3)
    expected = y.amax((2, 3)) @ state["classifier.weight"].T / 9

    torch.testing.assert_close(network(x), expected, rtol=1e-10, atol=1e-12)


def test_whitening_filters_equal_plain_eigenvectors():
    x = images()
    patches = np.array(
        [x[i, :, r : r + 2, c : c + 2].reshape(-1).numpy() for i in range(6) for r in range(31) for c in range(31)]
    )
    values, vectors = np.linalg.eigh(patches.T @ patches / len(patches))

    filters = whitening_filters(x).numpy().reshape(24, 12)

    np.testing.assert_array_equal(filters[12:], -filters[:12])
    for i, each in enumerate(filters[:12]):
        expected = vectors[:, 11 - i] / np.sqrt(values[11 - i] + 5e-4)
        sign = np.sign(each @ expected)
        np.testing.assert_allclose(each, sign * expected, rtol=1e-7, atol=1e-9)
        assert each[np.abs(each).argmax()] > 0


def test_set_from_images_takes_first_5000():
    x = torch.randn(WHITENING_IMAGES + 5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    network = Airbench(94, classes=10)
    network.set_from_images(x)
    torch.testing.assert_close(network.whitening.weight.data, whitening_filters(x[:5000]).float())


@pytest.mark.parametrize("accuracy", [94, 96])
def test_convolutions_start_as_identity(accuracy):
    network = Airbench(accuracy, classes=10)
    for block in network.blocks:
        for convolution in (block.conv1, *block.convs):
            inputs = convolution.in_channels
            x = torch.randn(1, inputs, 5, 5)
            assert torch.equal(convolution(x)[:, :inputs], x)

            rest = convolution.weight[inputs:]
            bound = (9 * inputs) ** -0.5  # torch's default initialisation is uniform within it
            assert not len(rest) or bound * 0.9 < rest.abs().max() <= bound


@pytest.mark.parametrize("accuracy", [94, 96])
def test_batchnorm_learns_only_bias(accuracy):
    network = Airbench(accuracy, classes=10)
    layers = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert len(layers) == {94: 6, 96: 9}[accuracy]
    assert all([name for name, _ in layer.named_parameters()] == ["bias"] for layer in layers)
    momentum = {94: 0.4, 96: 0.1}[accuracy]
    assert {layer.momentum for layer in layers} == {PLANS[accuracy].batchnorm_momentum} == {momentum}
    assert {layer.eps for layer in layers} == {1e-12}


@pytest.mark.parametrize("name", ["sgd", "sam", "asam", "gsam"])
def test_step_leaves_whitening_filters_unchanged(name):
    torch.manual_seed(0)
    network = Airbench(94, classes=10)
    filters = network.whitening.weight.clone()
    for parameter, p in network.named_parameters():
        if parameter.endswith("bias"):
            p.data.normal_()  # ASAM does not perturb a 0

    radius = {} if name == "sgd" else {"rho": 0.5}
    optimizer = method(name)(network.parameters(), torch.optim.SGD, model=network, lr=0.1, weight_decay=0.1, **radius)
    weights_by_pass = []

    def closure():
        optimizer.zero_grad()
        weights_by_pass.append([p.detach().clone() for p in network.parameters()])
        loss = F.cross_entropy(network(images(4).float()), torch.arange(4))
        loss.backward()
        return loss

    optimizer.step(closure)

    names = [name for name, _ in network.named_parameters()]
    whitening = names.index("whitening.weight")
    assert all(torch.equal(weights[whitening], filters) for weights in [*weights_by_pass, list(network.parameters())])
    if len(weights_by_pass) == 2:
        perturbed = {n for n, a, b in zip(names, *weights_by_pass, strict=True) if not torch.equal(a, b)}
        assert "whitening.weight" not in perturbed
        assert {"whitening.bias", "blocks.0.conv1.weight", "classifier.weight"} <= perturbed
