"""Tests of weight averages: WeightAverage, and WASAM, which has one."""

import copy

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sam_bench import WASAM, WeightAverage
from tests.optim.problem import assert_equal, batch, flat_weights, network, state, train, wrap


@pytest.mark.parametrize("decay", [None, 0.9])
def test_mean_equals_its_formula_and_torchs(decay):
    model = network()
    optimizer = wrap(model, "sam")
    average = WeightAverage(model.parameters(), decay)
    torchs = AveragedModel(model, multi_avg_fn=None if decay is None else get_ema_multi_avg_fn(decay))
    seen = []
    for t in range(10):
        train(model, optimizer, 1, first=t)
        seen.append(flat_weights(model))
        average.update()
        torchs.update_parameters(model)

    if decay is None:
        expected = torch.stack(seen).mean(0)
    else:
        expected = seen[0]
        for w in seen[1:]:
            expected = decay * expected + (1 - decay) * w
    ours = torch.cat([x.reshape(-1) for x in average.mean])
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours, flat_weights(torchs.module), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_swapped_restores_weights_bit_for_bit(dtype):
    model = network(dtype=dtype)
    average = WeightAverage(model.parameters())
    for t in range(3):
        train(model, wrap(model, "sgd"), 1, first=t)
        average.update()
    before = [(p.detach().clone(), p.data_ptr()) for p in model.parameters()]

    with average.swapped():
        assert not torch.equal(model[0].weight, before[0][0])
        torch.testing.assert_close(model[0].weight.detach(), average.mean[0].to(dtype))

    for p, (value, address) in zip(model.parameters(), before, strict=True):
        assert torch.equal(p, value)
        assert p.data_ptr() == address
    assert average.mean[0].dtype == torch.promote_types(dtype, torch.float32)


def test_mean_resumes_bit_for_bit():
    model = network()
    optimizer, average = wrap(model, "sam"), WeightAverage(model.parameters())
    for t in range(3):
        train(model, optimizer, 1, first=t)
        average.update()
    other = WeightAverage(model.parameters())
    other.load_state_dict(copy.deepcopy(average.state_dict()))

    train(model, optimizer, 1, first=3)
    average.update()
    other.update()
    assert all(torch.equal(a, b) for a, b in zip(average.mean, other.mean, strict=True))


def test_swap_without_mean_is_refused():
    with pytest.raises(RuntimeError, match="no mean"):
        WeightAverage(network().parameters()).swap()


def test_calls_while_swapped_are_refused():
    average = WeightAverage(network().parameters())
    average.update()
    average.swap()
    with pytest.raises(RuntimeError, match=r"update\(\) while"):
        average.update()
    with pytest.raises(RuntimeError, match=r"state_dict\(\) while"):
        average.state_dict()


def test_bad_average_is_refused():
    model = network()
    with pytest.raises(TypeError, match=r"model\.parameters"):
        WeightAverage(model)
    for decay in (-0.1, 1.0):
        with pytest.raises(ValueError, match="decay"):
            WeightAverage(model.parameters(), decay)


def test_wasam_averages_swaps_and_estimates():
    model = network()
    optimizer = wrap(model, "wasam")
    seen = []
    for t in range(4):
        train(model, optimizer, 1, first=t)
        optimizer.update_swa()
        seen.append(model[0].weight.detach().clone())
    before = state(model, optimizer)

    optimizer.swap_swa_sgd()
    torch.testing.assert_close(model[0].weight.detach(), torch.stack(seen).mean(0), rtol=0, atol=1e-12)
    with pytest.raises(RuntimeError, match=r"step\(\) while"):
        train(model, optimizer, 1)

    optimizer.bn_update([batch(0)[0], batch(1)], model)  # inputs alone, or with labels
    inputs = [model[0](batch(t)[0]) for t in (0, 1)]
    expected = torch.stack([x.mean((0, 2, 3)) for x in inputs]).mean(0)
    torch.testing.assert_close(model[1].running_mean, expected)

    # Swapping back restores the statistics too.
    optimizer.swap_swa_sgd()
    assert_equal(before, state(model, optimizer))


def test_wasam_average_is_in_state_dict(tmp_path):
    model = network()
    optimizer = wrap(model, "wasam")
    for t in range(2):
        train(model, optimizer, 1, first=t)
        optimizer.update_swa()
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")

    other = WASAM(model.parameters(), torch.optim.SGD, model=model, lr=0.1, momentum=0.9)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    other.swap_swa_sgd()
    torch.testing.assert_close(model[0].weight.detach(), optimizer.average.mean[0])


def test_mean_of_other_parameters_is_refused():
    average = WeightAverage(network().parameters())
    average.update()
    for others in (list(network().parameters())[:-1], [torch.zeros(2)] * 5):
        with pytest.raises(ValueError, match="other parameters"):
            WeightAverage(others).load_state_dict(average.state_dict())


def test_wasam_refuses_group_after_first_update():
    model = network()
    parameters = list(model.parameters())
    optimizer = WASAM(parameters[:-1], torch.optim.SGD, model=model, lr=0.1, momentum=0.9)
    optimizer.add_param_group({"params": parameters[-1:]})
    optimizer.update_swa()
    assert len(optimizer.average.mean) == len(parameters)

    with pytest.raises(RuntimeError, match="before the first"):
        optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))]})


def test_autocast_around_swap_sees_mean():
    model = network(dtype=torch.float32)
    average = WeightAverage(model.parameters())
    average.update()
    train(model, wrap(model, "sgd", lr=1.0), 3)
    model.eval()
    images = batch(dtype=torch.float32)[0]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        output = model(images)
        with average.swapped():
            assert not torch.equal(model(images), output)
        assert torch.equal(model(images), output)
