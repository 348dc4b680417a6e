"""Tests of `state_dict` and `load_state_dict`."""

import pytest
import torch

from tests.optim.problem import assert_equal, network, remember, state, train, wrap


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain"])
@pytest.mark.parametrize("name", ["sgd", "sam", "wsam", "sampa", "bsam"])
def test_training_on_adamw_resumes_bit_for_bit(name, fused, tmp_path):
    model = network()
    optimizer = wrap(model, name, 0.5, torch.optim.AdamW, fused)
    train(model, optimizer, 5)
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
    losses = train(model, optimizer, 5, first=5)

    other = network(seed=9)
    resumed = wrap(other, name, 0.5, torch.optim.AdamW, fused)
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    other.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    remember(other, resumed, 4)

    assert train(other, resumed, 5, first=5) == losses
    assert_equal(state(model, optimizer), state(other, resumed))
    assert (resumed.passes, resumed.steps) == (optimizer.passes, optimizer.steps)
    resumed.param_groups[0]["lr"] = 0.123
    assert resumed.base_optimizer.param_groups[0]["lr"] == 0.123


def test_schedulers_reach_base_after_loading():
    model = network()
    optimizer = wrap(model, "sam")
    train(model, optimizer, 2)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    optimizer.load_state_dict(optimizer.state_dict())
    train(model, optimizer, 1)
    scheduler.step()
    assert optimizer.base_optimizer.param_groups[0]["lr"] == 0.05

    before = model[0].weight.detach().clone()
    optimizer.param_groups[0].update(lr=0.0, weight_decay=0.0)
    train(model, optimizer, 1)
    assert torch.equal(before, model[0].weight)


@pytest.mark.parametrize(("name", "keys"), [("sam", 3), ("wasam", 4)])
def test_state_dict_hooks_are_called(name, keys):
    optimizer = wrap(network(), name)
    calls = []
    optimizer.register_state_dict_pre_hook(lambda optimizer: calls.append("saving"))
    optimizer.register_state_dict_post_hook(lambda optimizer, saved: calls.append(len(saved)) or saved | {"mine": 1})
    optimizer.register_load_state_dict_pre_hook(lambda optimizer, saved: calls.append(saved.pop("mine")))
    optimizer.register_load_state_dict_post_hook(lambda optimizer: calls.append("loaded"))

    optimizer.load_state_dict(optimizer.state_dict())

    assert calls == ["saving", keys, 1, "loaded"]


def test_state_of_another_method_is_refused():
    model = network()
    saved = wrap(model, "vasso").state_dict()
    for name in ("fsam", "wasam", "sam"):
        with pytest.raises(ValueError, match="state of VaSSO"):
            wrap(model, name).load_state_dict(saved)


def test_state_of_another_optimizer_is_refused():
    model = network()
    with pytest.raises(ValueError, match="sharpness_aware"):
        wrap(model, "sam").load_state_dict(torch.optim.SGD(model.parameters(), lr=0.1).state_dict())
