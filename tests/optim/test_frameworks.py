"""Optimizers in the wrappers that frameworks hand out: what they do there is what they do alone."""

import copy

import pytest
import torch

from tests.optim.problem import BY_HAND, assert_equal, batch, closure_for, network, remember, state, train, wrap
from tests.optim.test_stepping import by_hand

#: Steps before saving, and again after loading.
STEPS = 3

#: Methods that differ in what a wrapper could get wrong: passes, state of their own, closures kept from step to step.
KINDS = ("sgd", "sam", "wasam", "looksam", "ae_sam", "msam", "sampa", "bsam")
WAYS = [*((name, "closure") for name in KINDS), *((name, "by hand") for name in KINDS if name in BY_HAND)]


def as_copy(optimizer):
    """A wrapper of the kind that copies `__dict__` into an object of a new class."""
    wrapper = object.__new__(type(f"Wrapped{type(optimizer).__name__}", (type(optimizer),), {}))
    wrapper.__dict__ = dict(vars(optimizer))
    return wrapper


class LookedUp:
    """A wrapper of the kind that takes on the optimizer's class, and looks attributes up in the optimizer."""

    def __init__(self, optimizer):
        self._optimizer = optimizer
        self.__class__ = type(f"Wrapped{type(optimizer).__name__}", (LookedUp, type(optimizer)), {})

    def __getattr__(self, name):
        return getattr(self.__dict__["_optimizer"], name)


WRAPPERS = {"copy": as_copy, "looked up": LookedUp}


def step(way: str, model, optimizer, t: int) -> None:
    if way == "closure":
        optimizer.step(closure_for(model, optimizer, t))
    else:
        by_hand(model, optimizer, t)


def plain(name: str, way: str, steps: int):
    model = network()
    optimizer = wrap(model, name)
    for t in range(steps):
        step(way, model, optimizer, t)
    return model, optimizer


@pytest.mark.parametrize("name", BY_HAND)
def test_nothing_of_an_instance_is_hidden_by_its_class(name):
    _, optimizer = plain(name, "by hand", 2)
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    hidden = set(vars(optimizer)) & set(dir(type(optimizer)))
    assert hidden == {"step"}  # which the scheduler wraps


@pytest.mark.parametrize("kind", WRAPPERS)
@pytest.mark.parametrize(("name", "way"), WAYS)
def test_a_wrapper_steps_saves_and_resumes_as_the_optimizer_itself(name, kind, way):
    expected, alone = plain(name, way, 2 * STEPS)

    model = network()
    optimizer = wrap(model, name)
    wrapper = WRAPPERS[kind](optimizer)
    for t in range(STEPS):
        step(way, model, wrapper, t)
    assert (optimizer.steps, wrapper.steps) == (STEPS, STEPS)
    assert optimizer.passes == wrapper.passes > 0
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict(), wrapper.state_dict()))

    for of_whom in (1, 2):
        other = network(seed=9)
        resumed = wrap(other, name)
        again = WRAPPERS[kind](resumed)  # made before the state is loaded
        other.load_state_dict(saved[0])
        resumed.load_state_dict(copy.deepcopy(saved[of_whom]))
        remember(other, again, STEPS - 1)
        for t in range(STEPS, 2 * STEPS):
            step(way, other, again, t)
        assert_equal(state(expected, alone), state(other, resumed))
        assert (resumed.steps, resumed.passes) == (alone.steps, pytest.approx(alone.passes))


@pytest.mark.parametrize("kind", WRAPPERS)
def test_half_steps_may_change_hands(kind):
    expected, alone = plain("gsam", "by hand", 1)
    model = network()
    optimizer = wrap(model, "gsam")
    wrapper = WRAPPERS[kind](optimizer)
    closure = closure_for(model, optimizer)
    closure()
    wrapper.first_step(zero_grad=True)
    with pytest.raises(RuntimeError, match="came between"):
        optimizer.state_dict()
    closure()
    optimizer.second_step()
    assert_equal(state(expected, alone), state(model, optimizer))


@pytest.mark.parametrize("kind", WRAPPERS)
def test_a_wrappers_half_steps_are_steps_to_a_scheduler(kind, recwarn):
    model = network()
    optimizer = wrap(model, "sam")
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    by_hand(model, WRAPPERS[kind](optimizer), 0)
    scheduler.step()
    assert not [warning for warning in recwarn if "lr_scheduler" in str(warning.message)]


@pytest.mark.parametrize("kind", WRAPPERS)
def test_wasams_average_is_the_same_through_a_wrapper(kind):
    model = network()
    parameters = list(model.parameters())
    optimizer = wrap(model, "wasam", params=parameters[:-1])
    wrapper = WRAPPERS[kind](optimizer)
    optimizer.add_param_group({"params": parameters[-1:]})
    train(model, optimizer, 1)
    wrapper.update_swa()
    train(model, optimizer, 1, first=1)
    raw = state(model, optimizer)
    wrapper.swap_swa_sgd()
    assert not torch.equal(raw["4.bias"], model[4].bias)
    wrapper.bn_update([batch(0)[0]], model)
    optimizer.swap_swa_sgd()
    assert_equal(raw, state(model, optimizer))


# The frameworks themselves


def data() -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [batch(t, torch.float32) for t in range(STEPS)]


def plain_in_single_precision(name: str, epochs: int):
    """The plain loop over `data`."""
    model = network(dtype=torch.float32)
    optimizer = wrap(model, name)
    for t in range(epochs * STEPS):
        optimizer.step(closure_for(model, optimizer, t % STEPS))
    return model, optimizer


@pytest.fixture
def lightning():
    return pytest.importorskip("pytorch_lightning")


def lightning_trainer(lightning, folder, **options):
    return lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **options,
    )


def lightning_module(lightning, name: str, way: str):
    """A module of manual optimization."""

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.network = network(dtype=torch.float32)

        def configure_optimizers(self):
            return wrap(self.network, name)

        def on_train_start(self):
            if self.current_epoch > 0:  # of a checkpoint
                remember(self.network, self.optimizers(), STEPS - 1)

        def training_step(self, _, number):
            optimizer = self.optimizers()
            if way == "closure":
                optimizer.step(closure_for(self.network, optimizer, number, backward=self.manual_backward))
            else:
                by_hand(self.network, optimizer, number)

    return Module()


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(("name", "way"), WAYS)
def test_lightnings_manual_optimization_is_the_plain_loop_also_when_resumed(lightning, name, way, tmp_path):
    def fit(epochs: int, checkpoint=None):
        trainer = lightning_trainer(lightning, tmp_path, max_epochs=epochs)
        module = lightning_module(lightning, name, way)
        trainer.fit(module, torch.utils.data.DataLoader(range(STEPS)), ckpt_path=checkpoint, weights_only=True)
        return trainer, module

    trainer, _ = fit(1)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    trainer, module = fit(2, tmp_path / "last.ckpt")
    expected, alone = plain_in_single_precision(name, 2)
    (optimizer,) = trainer.optimizers
    assert_equal(state(expected, alone), state(module.network, optimizer))
    assert optimizer.steps == 2 * STEPS


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("parts", [1, 2])
def test_lightnings_accumulation_outside_the_closure_is_refused(lightning, parts, tmp_path):
    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = network(dtype=torch.float32)

        def configure_optimizers(self):
            return wrap(self.network, "sam")

        def training_step(self, _, number):
            images, labels = batch(number, torch.float32)
            return torch.nn.functional.cross_entropy(self.network(images), labels)

    trainer = lightning_trainer(lightning, tmp_path, max_epochs=1, accumulate_grad_batches=parts)
    module = Module()
    loader = torch.utils.data.DataLoader(range(4))
    if parts == 1:
        trainer.fit(module, loader)
        assert trainer.optimizers[0].steps == 4
    else:
        with pytest.raises(ValueError, match="accumulate_grad_batches"):
            trainer.fit(module, loader)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", KINDS)
def test_accelerates_prepared_optimizer_is_the_plain_loop_also_when_resumed(name, tmp_path):
    accelerate = pytest.importorskip("accelerate")

    def prepared():
        accelerator = accelerate.Accelerator(cpu=True)
        model = network(dtype=torch.float32)
        return accelerator, *accelerator.prepare(model, wrap(model, name))

    def epoch(accelerator, model, optimizer):
        for t in range(STEPS):
            optimizer.step(closure_for(model, optimizer.optimizer, t, backward=accelerator.backward))

    accelerator, model, optimizer = prepared()
    epoch(accelerator, model, optimizer)
    accelerator.save_state(tmp_path, safe_serialization=False)
    accelerator, model, optimizer = prepared()
    accelerator.load_state(tmp_path)
    remember(model, optimizer.optimizer, STEPS - 1)
    epoch(accelerator, model, optimizer)
    expected, alone = plain_in_single_precision(name, 2)
    assert_equal(state(expected, alone), state(model, optimizer.optimizer))
    assert optimizer.optimizer.steps == 2 * STEPS


# What such loops do besides


@pytest.mark.parametrize(("name", "way"), WAYS)
def test_step_hooks_are_called_once_a_step(name, way):
    model = network()
    optimizer, calls = wrap(model, name), []
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    for t in range(3):
        step(way, model, optimizer, t)
    assert calls == ["pre", "post"] * 3


def test_a_step_that_is_given_up_has_no_post_hook():
    model = network()
    optimizer, calls = wrap(model, "sam"), []
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    closure_for(model, optimizer)()
    optimizer.first_step()
    optimizer.restore()
    assert calls == []


def test_a_hook_that_replaces_arguments_is_refused_by_hand():
    model = network()
    optimizer = wrap(model, "sam")
    optimizer.register_step_pre_hook(lambda optimizer, arguments, named: (arguments, named))
    closure_for(model, optimizer)()
    with pytest.raises(RuntimeError, match="cannot replace its arguments"):
        optimizer.first_step()
    optimizer.zero_grad()
    optimizer.step(closure_for(model, optimizer))


@pytest.mark.parametrize("gradients", [False, True], ids=["before backward", "after backward"])
@pytest.mark.parametrize("closure", [False, True], ids=["no closure", "closure"])
def test_a_step_that_the_scaler_takes_is_refused_and_leaves_no_trace(gradients, closure):
    model = network()
    optimizer = wrap(model, "sam")
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    scaled = closure_for(model, optimizer, 0, backward=lambda loss: scaler.scale(loss).backward())
    if gradients:
        scaled()
    else:
        scaler.scale(torch.ones(()))
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.raises(RuntimeError, match=r"optimizer\.step\(closure, scaler=scaler\)"):
        scaler.step(optimizer, *([scaled] if closure else []))
    assert_equal(weights, {name: p.detach() for name, p in model.named_parameters()})
    optimizer.zero_grad()
    optimizer.step(scaled, scaler=scaler)
    scaler.update()
    other = network()
    train(other, wrap(other, "sam"), 1)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p, dict(other.named_parameters())[name], rtol=1e-6, atol=1e-7)


def test_a_scaler_that_is_switched_off_may_take_the_step():
    a, b = network(), network()
    first, second = wrap(a, "sam"), wrap(b, "sam")
    torch.amp.GradScaler("cpu", enabled=False).step(first, closure_for(a, first))
    train(b, second, 1)
    assert_equal(state(a, first), state(b, second))
