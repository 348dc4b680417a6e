"""Tests of optimizers inside the wrappers of frameworks, where they must do what they do alone."""

import copy

import pytest
import torch

from tests.optim.problem import (
    BY_HAND,
    assert_equal,
    batch,
    closure_for,
    network,
    remember,
    state,
    step_by_hand,
    train,
    wrap,
)

#: Steps before saving, and again after loading.
STEPS = 3

#: Methods that differ in what a wrapper could get wrong: passes, state of their own, closures kept from step to step.
KINDS = ("sgd", "sam", "wasam", "looksam", "ae_sam", "msam", "sampa", "bsam")
WAYS = [*((name, "closure") for name in KINDS), *((name, "by hand") for name in KINDS if name in BY_HAND)]


def make_copying_wrapper(optimizer):
    """Return a wrapper that copies `__dict__` into an object of a new class."""
    wrapper = object.__new__(type(f"Wrapped{type(optimizer).__name__}", (type(optimizer),), {}))
    wrapper.__dict__ = dict(vars(optimizer))
    return wrapper


class DelegatingWrapper:
    """A wrapper that takes on the optimizer's class, and looks attributes up in the optimizer."""

    def __init__(self, optimizer):
        self._optimizer = optimizer
        self.__class__ = type(f"Wrapped{type(optimizer).__name__}", (DelegatingWrapper, type(optimizer)), {})

    def __getattr__(self, name):
        return getattr(self.__dict__["_optimizer"], name)


WRAPPERS = {"copying": make_copying_wrapper, "delegating": DelegatingWrapper}


def step(way: str, model, optimizer, t: int) -> None:
    """Take step `t` with a closure or by hand."""
    if way == "closure":
        optimizer.step(closure_for(model, optimizer, t))
    else:
        step_by_hand(model, optimizer, t)


def train_alone(name: str, way: str, steps: int):
    """Return model and optimizer after some steps without a wrapper."""
    model = network()
    optimizer = wrap(model, name)
    for t in range(steps):
        step(way, model, optimizer, t)
    return model, optimizer


@pytest.mark.parametrize("name", BY_HAND)
def test_class_hides_no_attribute_of_instance(name):
    _, optimizer = train_alone(name, "by hand", 2)
    torch.optim.lr_scheduler.StepLR(optimizer, 1)
    hidden = set(vars(optimizer)) & set(dir(type(optimizer)))
    assert hidden == {"step"}  # the scheduler wraps it


@pytest.mark.parametrize("kind", WRAPPERS)
@pytest.mark.parametrize(("name", "way"), WAYS)
def test_wrapper_steps_saves_and_resumes_as_optimizer(name, kind, way):
    expected_model, expected = train_alone(name, way, 2 * STEPS)

    model = network()
    optimizer = wrap(model, name)
    wrapper = WRAPPERS[kind](optimizer)
    for t in range(STEPS):
        step(way, model, wrapper, t)
    assert (optimizer.steps, wrapper.steps) == (STEPS, STEPS)
    assert optimizer.passes == wrapper.passes > 0

    weights, *saved_states = copy.deepcopy((model.state_dict(), optimizer.state_dict(), wrapper.state_dict()))
    for saved in saved_states:
        other = network(seed=9)
        resumed = wrap(other, name)
        resumed_wrapper = WRAPPERS[kind](resumed)  # made before the state is loaded
        other.load_state_dict(weights)
        resumed.load_state_dict(copy.deepcopy(saved))  # the two states share tensors
        remember(other, resumed_wrapper, STEPS - 1)
        for t in range(STEPS, 2 * STEPS):
            step(way, other, resumed_wrapper, t)
        assert_equal(state(expected_model, expected), state(other, resumed))
        assert (resumed.steps, resumed.passes) == (expected.steps, pytest.approx(expected.passes))


@pytest.mark.parametrize("kind", WRAPPERS)
def test_optimizer_finishes_half_step_of_wrapper(kind):
    expected_model, expected = train_alone("gsam", "by hand", 1)
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

    assert_equal(state(expected_model, expected), state(model, optimizer))


@pytest.mark.parametrize("kind", WRAPPERS)
def test_scheduler_sees_steps_of_wrapper(kind, recwarn):
    model = network()
    optimizer = wrap(model, "sam")
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    step_by_hand(model, WRAPPERS[kind](optimizer), 0)
    scheduler.step()
    assert not [warning for warning in recwarn if "lr_scheduler" in str(warning.message)]


@pytest.mark.parametrize("kind", WRAPPERS)
def test_wrapper_shares_wasam_average(kind):
    model = network()
    parameters = list(model.parameters())
    optimizer = wrap(model, "wasam", params=parameters[:-1])
    wrapper = WRAPPERS[kind](optimizer)
    optimizer.add_param_group({"params": parameters[-1:]})
    train(model, optimizer, 1)
    wrapper.update_swa()
    train(model, optimizer, 1, first=1)
    before = state(model, optimizer)

    wrapper.swap_swa_sgd()
    assert not torch.equal(before["4.bias"], model[4].bias)
    wrapper.bn_update([batch(0)[0]], model)
    optimizer.swap_swa_sgd()
    assert_equal(before, state(model, optimizer))


# The frameworks themselves


def train_in_single_precision(name: str, epochs: int):
    """Return model and optimizer after a plain loop over the batches that the frameworks train on."""
    model = network(dtype=torch.float32)
    optimizer = wrap(model, name)
    for t in range(epochs * STEPS):
        optimizer.step(closure_for(model, optimizer, t % STEPS))
    return model, optimizer


@pytest.fixture
def lightning():
    """Return the package pytorch_lightning."""
    return pytest.importorskip("pytorch_lightning")


def make_lightning_trainer(lightning, folder, **options):
    """Return a Trainer that writes and shows nothing by itself."""
    return lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **options,
    )


def make_lightning_module(lightning, name: str, way: str):
    """Return a module with manual optimization."""

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.network = network(dtype=torch.float32)

        def configure_optimizers(self):
            return wrap(self.network, name)

        def on_train_start(self):
            if self.current_epoch > 0:  # resumed from a checkpoint
                remember(self.network, self.optimizers(), STEPS - 1)

        def training_step(self, _, number):
            optimizer = self.optimizers()
            if way == "closure":
                optimizer.step(closure_for(self.network, optimizer, number, backward=self.manual_backward))
            else:
                step_by_hand(self.network, optimizer, number)

    return Module()


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(("name", "way"), WAYS)
def test_lightning_equals_plain_loop(lightning, name, way, tmp_path):
    def fit(epochs: int, checkpoint=None):
        trainer = make_lightning_trainer(lightning, tmp_path, max_epochs=epochs)
        module = make_lightning_module(lightning, name, way)
        trainer.fit(module, torch.utils.data.DataLoader(range(STEPS)), ckpt_path=checkpoint, weights_only=True)
        return trainer, module

    trainer, _ = fit(1)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    trainer, module = fit(2, tmp_path / "last.ckpt")

    expected_model, expected = train_in_single_precision(name, 2)
    (optimizer,) = trainer.optimizers
    assert_equal(state(expected_model, expected), state(module.network, optimizer))
    assert optimizer.steps == 2 * STEPS


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("parts", [1, 2])
def test_lightning_accumulation_is_refused(lightning, parts, tmp_path):
    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.network = network(dtype=torch.float32)

        def configure_optimizers(self):
            return wrap(self.network, "sam")

        def training_step(self, _, number):
            images, labels = batch(number, torch.float32)
            return torch.nn.functional.cross_entropy(self.network(images), labels)

    trainer = make_lightning_trainer(lightning, tmp_path, max_epochs=1, accumulate_grad_batches=parts)
    loader = torch.utils.data.DataLoader(range(4))
    if parts == 1:
        trainer.fit(Module(), loader)
        assert trainer.optimizers[0].steps == 4
    else:
        with pytest.raises(ValueError, match="accumulate_grad_batches"):
            trainer.fit(Module(), loader)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", KINDS)
def test_accelerate_equals_plain_loop(name, tmp_path):
    accelerate = pytest.importorskip("accelerate")

    def prepare():
        accelerator = accelerate.Accelerator(cpu=True)
        model = network(dtype=torch.float32)
        return accelerator, *accelerator.prepare(model, wrap(model, name))

    def train_epoch(accelerator, model, optimizer):
        for t in range(STEPS):
            optimizer.step(closure_for(model, optimizer.optimizer, t, backward=accelerator.backward))

    accelerator, model, optimizer = prepare()
    train_epoch(accelerator, model, optimizer)
    accelerator.save_state(tmp_path, safe_serialization=False)
    accelerator, model, optimizer = prepare()
    accelerator.load_state(tmp_path)
    remember(model, optimizer.optimizer, STEPS - 1)
    train_epoch(accelerator, model, optimizer)

    expected_model, expected = train_in_single_precision(name, 2)
    assert_equal(state(expected_model, expected), state(model, optimizer.optimizer))
    assert optimizer.optimizer.steps == 2 * STEPS


# Hooks and scalers, as frameworks use them


@pytest.mark.parametrize(("name", "way"), WAYS)
def test_step_hooks_are_called_once_a_step(name, way):
    model = network()
    optimizer, calls = wrap(model, name), []
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    for t in range(3):
        step(way, model, optimizer, t)
    assert calls == ["pre", "post"] * 3


def test_given_up_step_has_no_post_hook():
    model = network()
    optimizer, calls = wrap(model, "sam"), []
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))
    closure_for(model, optimizer)()
    optimizer.first_step()
    optimizer.restore()
    assert calls == []


def test_hook_replacing_arguments_is_refused_by_hand():
    model = network()
    optimizer = wrap(model, "sam")
    optimizer.register_step_pre_hook(lambda optimizer, arguments, named: (arguments, named))
    closure_for(model, optimizer)()
    with pytest.raises(RuntimeError, match="cannot replace its arguments"):
        optimizer.first_step()
    optimizer.zero_grad()
    optimizer.step(closure_for(model, optimizer))


@pytest.mark.parametrize("with_gradients", [False, True], ids=["before backward", "after backward"])
@pytest.mark.parametrize("with_closure", [False, True], ids=["no closure", "closure"])
def test_scaler_step_is_refused_without_trace(with_gradients, with_closure):
    model = network()
    optimizer = wrap(model, "sam")
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    closure = closure_for(model, optimizer, 0, backward=lambda loss: scaler.scale(loss).backward())
    if with_gradients:
        closure()
    else:
        scaler.scale(torch.ones(()))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with pytest.raises(RuntimeError, match=r"optimizer\.step\(closure, scaler=scaler\)"):
        scaler.step(optimizer, *([closure] if with_closure else []))
    assert_equal(before, {name: p.detach() for name, p in model.named_parameters()})

    # Steps of the optimizer itself go on as if nothing had been.
    optimizer.zero_grad()
    optimizer.step(closure, scaler=scaler)
    scaler.update()
    other = network()
    train(other, wrap(other, "sam"), 1)
    for p, expected in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, expected, rtol=1e-6, atol=1e-7)


def test_disabled_scaler_may_step():
    a, b = network(), network()
    first, second = wrap(a, "sam"), wrap(b, "sam")
    torch.amp.GradScaler("cpu", enabled=False).step(first, closure_for(a, first))
    train(b, second, 1)
    assert_equal(state(a, first), state(b, second))
