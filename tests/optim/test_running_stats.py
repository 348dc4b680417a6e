"""Running statistics that are re-estimated, and copies of many tensors in few buffers."""

from collections import OrderedDict, UserDict, namedtuple
from collections.abc import Mapping

import pytest
import torch
from torch import nn

from sam_bench import SAMON
from sam_bench.models.batchnorm import BatchNorm2d
from sam_bench.optim.flat import FlatCopy
from sam_bench.optim.running_stats import reestimate_statistics
from tests.optim.problem import assert_equal, batch, network, train, wrap

SIZES = (12, 12, 5)


def batches() -> list[torch.Tensor]:
    return [batch(t)[0][:size] for t, size in enumerate(SIZES)]


def expected(model: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """The means of the batches' statistics, weighted by their sizes."""
    outputs = [model[0](images) for images in batches()]
    weights = torch.tensor(SIZES, dtype=torch.float64) / sum(SIZES)
    mean = torch.stack([x.mean((0, 2, 3)) for x in outputs])
    variance = torch.stack([x.transpose(0, 1).flatten(1).var(1) for x in outputs])
    return (weights[:, None] * mean).sum(0), (weights[:, None] * variance).sum(0)


def assert_estimated(model: nn.Module) -> None:
    for found, value in zip((model[1].running_mean, model[1].running_var), expected(model), strict=True):
        torch.testing.assert_close(found, value, rtol=0, atol=1e-12)


def test_batches_count_by_their_size():
    model = network()
    model(batch(7)[0])
    reestimate_statistics(model, batches())
    assert_estimated(model)
    assert model[1].num_batches_tracked.item() == len(SIZES)


def test_modes_and_momenta_come_back_even_after_a_failure():
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


def test_without_batches_the_statistics_stay():
    model = network()
    model(batch(7)[0])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match="no batches"):
        reestimate_statistics(model, [])
    assert_equal(before, dict(model.state_dict()))


def test_a_loader_of_inputs_and_labels_is_one_of_inputs():
    model = network()
    reestimate_statistics(model, [(images, None) for images in batches()])
    assert_estimated(model)


@pytest.mark.parametrize("wrong", ["a batch", torch.zeros(12, 5, 8, 8, dtype=torch.float64)], ids=["text", "channels"])
def test_after_a_batch_that_cannot_be_taken_the_statistics_are_as_before(wrong):
    model = network()
    model(batch(7)[0])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises((TypeError, RuntimeError)):
        reestimate_statistics(model, [*batches(), wrong])
    assert_equal(before, dict(model.state_dict()))


def test_empty_batches_count_for_nothing():
    model = network()
    reestimate_statistics(model, [batches()[0][:0], *batches()])
    assert_estimated(model)


class Fixed(nn.Module):
    """Normalises by statistics that are part of the pretrained network, as detection backbones do."""

    def __init__(self):
        super().__init__()
        self.register_buffer("running_mean", torch.full((6,), 0.5, dtype=torch.float64))

    def forward(self, x):
        return x - self.running_mean[None, :, None, None]


def test_statistics_that_no_layer_estimates_stay():
    model = network()
    model.insert(2, Fixed())
    reestimate_statistics(model, batches())
    assert torch.equal(model[2].running_mean, torch.full((6,), 0.5, dtype=torch.float64))
    assert_estimated(model)


def test_a_compiled_model_is_not_compiled_for_every_batch():
    model, compiled = network(), []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    reestimate_statistics(torch.compile(model, backend=backend), batches())
    assert not compiled
    assert_estimated(model)


def test_a_layer_that_averages_all_batches_goes_on_from_the_estimate():
    torch.manual_seed(0)
    layer = BatchNorm2d(3, momentum=None).double()
    reestimate_statistics(layer, batches())
    estimate = layer.running_mean.clone()
    layer(batch(9)[0])
    expected = estimate + (batch(9)[0].mean((0, 2, 3)) - estimate) / (len(SIZES) + 1)
    torch.testing.assert_close(layer.running_mean, expected, rtol=0, atol=1e-12)


def test_a_model_without_statistics_takes_no_pass():
    reestimate_statistics(nn.Linear(2, 1), iter(lambda: pytest.fail("a batch was taken"), None))


@pytest.mark.parametrize("labelled", [False, True], ids=["inputs", "with labels"])
def test_wasams_update_counts_batches_by_their_size(labelled):
    model = network()
    optimizer = wrap(model, "wasam")
    train(model, optimizer, 1)
    optimizer.update_swa()
    optimizer.swap_swa_sgd()
    loader = [(images, None) if labelled else images for images in batches()]
    optimizer.bn_update(loader, model, device="cpu")
    assert_estimated(model)


# Copies


def tensors() -> list[torch.Tensor]:
    torch.manual_seed(0)
    return [
        torch.randn(3, 4),
        torch.randn(4, 3).t(),
        torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        torch.randn(()),
        torch.arange(5),
        torch.tensor(7),
        torch.randn(6, dtype=torch.float64),
        torch.randn(5, 4)[:, ::2],
        torch.randn(4, 1).expand(4, 3),
        torch.empty(0, 3),
    ]


def test_copies_have_values_shapes_and_layouts_of_the_tensors():
    originals = tensors()
    copies = FlatCopy(originals)
    assert len(copies.buffers) == 3
    for x, copy in zip(originals, copies.views, strict=True):
        assert copy.shape == x.shape and copy.dtype == x.dtype
        assert torch.equal(copy, x)
        assert copy.stride() == torch.empty_like(x).stride()
        assert any(copy.untyped_storage().data_ptr() == b.untyped_storage().data_ptr() for b in copies.buffers)


@pytest.mark.parametrize("holds", [True, False])
def test_tensors_are_kept_or_what_was_copied_comes_back_whatever_their_layout(holds):
    originals = [x for x in tensors() if not (x.dim() and 0 in x.stride())]
    copies = FlatCopy(originals)
    changed = [(x + 1).contiguous() for x in originals]
    expected = [x.clone() for x in (changed if holds else originals)]
    now = copies.keep_if(torch.tensor(holds), changed)
    for x, copy, value in zip(changed, now.views, expected, strict=True):
        assert torch.equal(x, value)
        assert torch.equal(copy, value)


def test_zeros_replace_what_is_not_finite():
    copies = FlatCopy([torch.tensor([1.0, float("nan")]), torch.tensor(float("inf"))])
    copies.zero_unless(torch.tensor(True))
    assert copies.views[1].isinf()
    copies.zero_unless(torch.tensor(False))
    assert all(not copy.any() for copy in copies.views)


class Batch(nn.Module):
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
def test_batches_of_any_form_count_by_their_examples(form):
    model = Batch()
    reestimate_statistics(model, map(FORMS[form], batches()))
    assert_estimated(model.inner)


@pytest.mark.parametrize(
    "wrong",
    [
        {"x": torch.zeros(4, 6), "y": torch.zeros(3)},
        {"x": "text"},
        "text",
        nn.utils.rnn.pack_sequence([torch.zeros(3, 6), torch.zeros(2, 6)]),
    ],
)
def test_batches_without_a_number_of_examples_are_refused(wrong):
    model = Batch()
    before = [buffer.clone() for buffer in model.buffers()]
    with pytest.raises(TypeError, match="number of examples"):
        reestimate_statistics(model, [wrong])
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), before, strict=True))


class Scale(nn.Module):
    """A normalisation layer that is none of torch's classes, or a layer that is called like one and is not."""

    def __init__(self, *shape: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(*shape))

    def forward(self, x):
        return x * self.weight if self.weight.dim() == 1 else x @ self.weight


class LlamaRMSNorm(Scale):
    pass


class NormalisedLinear(Scale):
    pass


@pytest.mark.parametrize(
    ("layer", "name", "perturbed"),
    [
        (LlamaRMSNorm(6), "post", True),
        (Scale(6), "norm1", True),
        (Scale(6), "bn2", True),
        (Scale(6), "scale", False),
        (NormalisedLinear(6, 6), "post", False),
    ],
)
def test_sam_on_finds_normalisation_by_class_or_name(layer, name, perturbed):
    model = nn.Sequential(OrderedDict({"in": nn.LayerNorm(6), name: layer, "out": nn.Linear(6, 3)}))
    optimizer = SAMON(model.parameters(), torch.optim.SGD, model=model, lr=0.1)
    assert (layer.weight in optimizer.perturbed) == perturbed
    assert model[0].weight in optimizer.perturbed and model[2].weight not in optimizer.perturbed
