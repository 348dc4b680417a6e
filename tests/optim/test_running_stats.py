"""Tests of running statistics: they change in the unperturbed pass only, and can be estimated anew."""

import copy
from collections import UserDict, namedtuple
from collections.abc import Mapping

import pytest
import torch
from torch import nn

from sam_bench import SAM
from sam_bench.models.batchnorm import BatchNorm2d
from sam_bench.optim.running_stats import reestimate_statistics
from tests.optim.problem import assert_equal, batch, network, train, wrap

#: Examples in each batch that statistics are estimated on.
SIZES = (12, 12, 5)


def batches() -> list[torch.Tensor]:
    """Return batches of images of different sizes."""
    return [batch(t)[0][:size] for t, size in enumerate(SIZES)]


def assert_estimated(model: nn.Module) -> None:
    """Check that the statistics of `network` are the means of the batches' own, weighted by their sizes."""
    outputs = [model[0](images) for images in batches()]
    weights = torch.tensor(SIZES, dtype=torch.float64)[:, None] / sum(SIZES)
    means = torch.stack([x.mean((0, 2, 3)) for x in outputs])
    variances = torch.stack([x.transpose(0, 1).flatten(1).var(1) for x in outputs])
    torch.testing.assert_close(model[1].running_mean, (weights * means).sum(0), rtol=0, atol=1e-12)
    torch.testing.assert_close(model[1].running_var, (weights * variances).sum(0), rtol=0, atol=1e-12)


# In a step


class VarianceOnly(nn.Module):
    """A layer with a running variance and no running mean, as EvoNorm-B0."""

    def __init__(self, name: str):
        super().__init__()
        self.name = name
        self.register_buffer(name, torch.ones(6, dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        variance = x.var(0, unbiased=False) if self.training else getattr(self, self.name)
        if self.training:
            getattr(self, self.name).lerp_(variance.detach(), 0.1)
        return x / (variance + 1e-5).sqrt()


LAYERS = {
    "running variance": lambda: VarianceOnly("running_var"),
    "moving variance": lambda: VarianceOnly("moving_variance"),
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6).double()),
    "old spectral norm": lambda: nn.utils.spectral_norm(nn.Linear(6, 6).double()),
    "batch norm": lambda: nn.BatchNorm1d(6).double(),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_statistics_are_those_of_unperturbed_pass(layer):
    torch.manual_seed(0)
    x = torch.randn(16, 6, dtype=torch.float64)
    model = nn.Sequential(nn.Linear(6, 6).double(), LAYERS[layer](), nn.Tanh())
    expected = copy.deepcopy(model)
    expected(x)
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=2.0, model=model, lr=0.1)

    def closure(factor: float = 1.0):
        optimizer.zero_grad()
        loss = model(x).square().mean() * factor
        loss.backward()
        return loss

    optimizer.step(closure)
    assert_equal(dict(model.named_buffers()), dict(expected.named_buffers()))

    # A skipped step changes none of them.
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    optimizer.step(lambda: closure(float("nan")))
    assert optimizer.skipped == 1
    assert_equal(before, dict(model.named_buffers()))


# Estimated anew


def test_estimate_weights_batches_by_size():
    model = network()
    model(batch(7)[0])
    reestimate_statistics(model, batches())
    assert_estimated(model)
    assert model[1].num_batches_tracked.item() == len(SIZES)


def test_estimate_ignores_empty_batches():
    model = network()
    reestimate_statistics(model, [batches()[0][:0], *batches()])
    assert_estimated(model)


def test_estimate_takes_inputs_with_labels():
    model = network()
    reestimate_statistics(model, [(images, None) for images in batches()])
    assert_estimated(model)


@pytest.mark.parametrize("labelled", [False, True], ids=["inputs", "with labels"])
def test_wasam_bn_update_weights_batches_by_size(labelled):
    model = network()
    optimizer = wrap(model, "wasam")
    train(model, optimizer, 1)
    optimizer.update_swa()
    optimizer.swap_swa_sgd()
    loader = [(images, None) if labelled else images for images in batches()]
    optimizer.bn_update(loader, model, device="cpu")
    assert_estimated(model)


class NetworkOfMappings(nn.Module):
    """A network that takes a dictionary, a list of tensors, or a tensor."""

    def __init__(self):
        super().__init__()
        self.inner = network()

    def forward(self, inputs):
        inputs = inputs["x"] if isinstance(inputs, Mapping) else inputs
        return self.inner(inputs[0] if isinstance(inputs, (list, tuple)) else inputs)


FORMS = {
    "dictionary": lambda x: {"x": x, "ids": torch.zeros(len(x)), "name": "a", "scale": torch.ones(())},
    "user dictionary": lambda x: UserDict(x=x),
    "dictionary and labels": lambda x: ({"x": x}, torch.zeros(len(x))),
    "several inputs and labels": lambda x: ([x, torch.zeros(len(x))], torch.zeros(len(x))),
    "named tuple": lambda x: namedtuple("Pair", "inputs labels")(x, torch.zeros(len(x))),
}


@pytest.mark.parametrize("form", FORMS)
def test_estimate_takes_batches_of_any_form(form):
    model = NetworkOfMappings()
    reestimate_statistics(model, map(FORMS[form], batches()))
    assert_estimated(model.inner)


@pytest.mark.parametrize(
    "bad_batch",
    [
        {"x": torch.zeros(4, 6), "y": torch.zeros(3)},
        {"x": "text"},
        "text",
        nn.utils.rnn.pack_sequence([torch.zeros(3, 6), torch.zeros(2, 6)]),
    ],
)
def test_batch_without_number_of_examples_is_refused(bad_batch):
    model = NetworkOfMappings()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with pytest.raises(TypeError, match="number of examples"):
        reestimate_statistics(model, [bad_batch])
    assert_equal(before, dict(model.named_buffers()))


@pytest.mark.parametrize(
    "bad_batch", ["a batch", torch.zeros(12, 5, 8, 8, dtype=torch.float64)], ids=["text", "channels"]
)
def test_bad_batch_leaves_statistics_as_before(bad_batch):
    model = network()
    model(batch(7)[0])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises((TypeError, RuntimeError)):
        reestimate_statistics(model, [*batches(), bad_batch])
    assert_equal(before, dict(model.state_dict()))


def test_estimate_without_batches_is_refused():
    model = network()
    model(batch(7)[0])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="no batches"):
        reestimate_statistics(model, [])
    assert_equal(before, dict(model.state_dict()))


def test_failed_estimate_restores_modes_and_momentum():
    model = network().eval()
    model[4].train()
    model[1].momentum = 0.3

    def failing():
        yield batch(0)[0]
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="disk"):
        reestimate_statistics(model, failing())
    assert [module.training for module in model] == [False, False, False, False, True]
    assert model[1].momentum == 0.3


class FixedMean(nn.Module):
    """A layer with statistics of a pretrained network, as in detection backbones."""

    def __init__(self):
        super().__init__()
        self.register_buffer("running_mean", torch.full((6,), 0.5, dtype=torch.float64))

    def forward(self, x):
        return x - self.running_mean[None, :, None, None]


def test_estimate_leaves_fixed_statistics_alone():
    model = network()
    model.insert(2, FixedMean())
    reestimate_statistics(model, batches())
    assert torch.equal(model[2].running_mean, torch.full((6,), 0.5, dtype=torch.float64))
    assert_estimated(model)


def test_estimate_does_not_compile_for_each_batch():
    model, graphs = network(), []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    reestimate_statistics(torch.compile(model, backend=backend), batches())
    assert not graphs
    assert_estimated(model)


def test_cumulative_average_continues_from_estimate():
    torch.manual_seed(0)
    layer = BatchNorm2d(3, momentum=None).double()
    reestimate_statistics(layer, batches())
    estimate = layer.running_mean.clone()
    layer(batch(9)[0])
    expected = estimate + (batch(9)[0].mean((0, 2, 3)) - estimate) / (len(SIZES) + 1)
    torch.testing.assert_close(layer.running_mean, expected, rtol=0, atol=1e-12)


def test_model_without_statistics_takes_no_batch():
    reestimate_statistics(nn.Linear(2, 1), iter(lambda: pytest.fail("a batch was taken"), None))
