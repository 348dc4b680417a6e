"""W&B: what it is told, and that a run does not depend on it."""

import sys
import types

import pytest


class FakeWandb(types.ModuleType):
    """Notes what it is told; fails in the call named by `failing`."""

    def __init__(self, failing: str = ""):
        super().__init__("wandb")
        self.failing, self.calls, self.summary = failing, [], {}

    def __getattr__(self, name):
        if name in ("init", "log", "finish", "Settings"):
            return lambda *arguments, **named: self._note(name, arguments, named)
        raise AttributeError(name)

    def _note(self, name, arguments, named):
        self.calls.append((name, arguments, named))
        if name == self.failing:
            raise ConnectionError("the server is down")
        return self

    def named(self, name):
        return [(arguments, named) for called, arguments, named in self.calls if called == name]


OVERRIDES = ["model=resnet8", "logger=wandb", "trainer.epochs=2"]


def test_a_run_is_mirrored_in_its_experiments_group(tiny_run, monkeypatch):
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    record = tiny_run(*OVERRIDES, "experiment=smoke")
    ((_, settings),) = wandb.named("init")
    assert settings["group"] == "smoke"
    assert (settings["name"], settings["id"]) == (record["run_id"], f"smoke-{record['run_id']}")
    assert (settings["resume"], settings["mode"]) == ("allow", "offline")
    logged = [arguments[0] for arguments, _ in wandb.named("log")]
    assert [values["epoch"] for values in logged] == [1, 2]
    assert [values["test_error"] for values in logged] == record["history"]["test_error"]
    assert wandb.summary["test_error"] == record["test_error"]
    assert wandb.named("finish") == [((), {"exit_code": 0})]


@pytest.mark.parametrize("failing", ["init", "log", "finish"])
def test_a_server_that_is_down_costs_a_warning_not_the_run(tiny_run, monkeypatch, failing):
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb(failing))
    with pytest.warns(UserWarning, match="W&B failed"):
        record = tiny_run(*OVERRIDES)
    assert record["status"] == "finished"


def test_a_package_that_is_absent_costs_a_warning_not_the_run(tiny_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.warns(UserWarning, match="W&B failed"):
        assert tiny_run(*OVERRIDES)["status"] == "finished"


def test_a_run_that_fails_is_finished_as_failed(tiny_run, monkeypatch):
    from sam_bench.training.loop import Training

    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setattr(Training, "_evaluate", lambda training: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tiny_run(*OVERRIDES)
    assert wandb.named("finish") == [((), {"exit_code": 1})]


def test_no_logger_touches_no_wandb(tiny_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert tiny_run("model=resnet8")["status"] == "finished"
