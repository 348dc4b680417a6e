"""The one training loop: the same for every method, network and device."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from sam_bench.analysis.measure import Probe
from sam_bench.config.schema import Config
from sam_bench.data.batches import Batches
from sam_bench.optim.base import evaluated_weights
from sam_bench.optim.engine import SharpnessAware
from sam_bench.optim.registry import BASES
from sam_bench.optim.running_stats import frozen_statistics
from sam_bench.runtime.device import Hardware
from sam_bench.runtime.distributed import Processes
from sam_bench.training import schedules
from sam_bench.training.averages import Averages
from sam_bench.training.evaluate import MEASURES, estimate_on_training_images, evaluate
from sam_bench.training.loss import smoothing_for_torch
from sam_bench.training.pace import Pace
from sam_bench.training.step import CapturedStep, Step, compile_for
from sam_bench.training.stopwatch import Stopwatch
from sam_bench.training.test_time import AveragedViews

MAX_SKIPPED = 200
"""What `trainer.max_skipped` is at least, where it is not set."""

SKIPPED_OF = 500
"""Of so many steps one may be skipped: a loss that is scaled for float16 overflows about once in 2,000."""

EXPLODED = 100.0
"""Nats: an epoch's mean loss above this is that of a run that has come to nothing; guessing costs 2.3."""

History = dict[str, list[float | None]]


@dataclass
class Training:
    """A run in progress: what changes while it trains, and the steps that change it.

    Args:
        train, test: batches on the hardware's device.
    """

    config: Config
    model: nn.Module
    optimizer: SharpnessAware
    train: Batches
    test: Batches
    hardware: Hardware
    engine: str
    """How steps are taken: "eager", "compile" or "graph"."""
    processes: Processes
    parallel: nn.Module
    """What is trained: the model, or its `DistributedDataParallel` where there are several processes."""
    epoch: int = 0
    """Epochs done."""
    position: int = 0
    """Steps done of the epoch after these."""
    history: History = field(default_factory=dict)
    """One value an epoch under each name."""
    peak_memory: int = 0
    """Bytes, the most of all processes that worked on the run."""
    averaged: dict[str, dict[str, float]] = field(default_factory=dict)
    """At the run's end, what is measured of each weight average."""
    #: The last epoch's test error with test-time augmentation, in percent, where the run measures it.
    test_error_tta: float | None = None
    diverged_epoch: int | None = None
    """The epoch in which the run came to nothing, and ended."""
    probe: Probe | None = None
    """What is measured of the loss around the weights, beside the errors."""
    watch: Stopwatch = field(default_factory=Stopwatch)
    """Seconds of the training of an epoch."""
    pace: Pace = field(default_factory=Pace)
    on_step: Callable[[float], None] = lambda images_per_second: None
    """Called after each step, with the speed of the epoch's training so far."""

    def __post_init__(self) -> None:
        trainer = self.config.trainer
        base = self.config.optimizer.base
        schedule = self.config.schedule
        self.eta = schedules.learning_rate(
            schedule.name,
            lr=base.lr,
            steps_per_epoch=len(self.train),
            epochs=trainer.epochs,
            warmup_epochs=schedule.warmup_epochs,
            warmup_start=schedule.warmup_start,
            lr_min=schedule.lr_min,
            milestones=schedule.milestones or (),
            gamma=schedule.gamma or 1.0,
            every=schedule.every,
            **({} if schedule.peak is None else {name: getattr(schedule, name) for name in ("start", "peak", "end")}),
        )
        self.rho = self._radius()
        smoothing = smoothing_for_torch(trainer.label_smoothing, trainer.smoothing_over, self.config.data.spec.classes)
        self.scaler = self.hardware.scaler()
        arguments = (
            self.parallel,
            self.optimizer,
            self.hardware,
            self.processes,
            smoothing,
            self.config.optimizer.m,
            trainer.micro_batch_size,
            self.scaler,
        )
        sums_loss = trainer.loss_reduction == "sum"
        if self.engine == "graph":
            self.step = CapturedStep(*arguments, compiled=True, sums_loss=sums_loss)
        else:
            on_device = self.hardware.device.type == "cuda" and BASES[base.name].captured  # as in a captured step
            compiled = self.engine == "compile"
            self.step = Step(*arguments, compiled=compiled, rates_on_device=on_device, sums_loss=sums_loss)
        self.eval_model = compile_for(self.model) if self.step.compiled else self.model
        """For evaluation."""
        self.averages = Averages(self.config.averaging, self.model, trainer.epochs, self.steps)

    @property
    def steps(self) -> int:
        """Steps of the whole run."""
        return self.config.steps

    @property
    def done(self) -> int:
        """Steps done of the whole run."""
        return self.epoch * len(self.train) + self.position

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to train."""
        return self.epoch == self.config.trainer.epochs or self.diverged_epoch is not None

    def run(self) -> Iterator[bool]:
        """Train from the present step to the last one.

        Pauses after each step, and after each epoch, of which it tells by True: the moments when the state is that of
        no step, and can be saved. The time of a pause is not counted in which `state_dict()` was called.
        """
        first = self.done
        while not self.ended:
            self.model.train()
            self._freeze()
            self.watch.run()
            for batch in self.train.epoch(self.epoch, self.position):
                t = self.done
                self.step.set_rates(self.eta(t), None if self.rho is None else self.rho(t))
                self.step(batch)
                self.averages.after_step()
                self.position += 1
                self.on_step(self.processes.world_size * self.step.images / self.watch.seconds)
                if self.hardware.device.type == "cpu":
                    self._tell_pace(estimate=first == 0)
                yield False
                self.watch.run()
            self._end_epoch()
            self._evaluate()
            self.epoch += 1
            self.position = 0
            self.peak_memory = max(self.peak_memory, *self.processes.gather(self.hardware.peak_memory()))
            yield True

    def state_dict(self) -> dict[str, Any]:
        """Everything that a later process needs to go on: tensors and plain values. All processes call this."""
        self.hardware.synchronize()
        self.watch.pause()
        cuda = self.hardware.device.type == "cuda"
        return {
            "epoch": self.epoch,
            "position": self.position,
            "totals": self.step.state_dict(),
            "seconds": self.watch.seconds,
            "diverged_epoch": self.diverged_epoch,
            "history": self.history,
            "peak_memory": self.peak_memory,
            "averaged": self.averaged,
            "test_error_tta": self.test_error_tta,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "averages": self.averages.state_dict(),
            "scaler": self.scaler.state_dict() if self.scaler else None,
            "generators": self.processes.gather(torch.get_rng_state()),
            "cuda_generators": self.processes.gather(torch.cuda.get_rng_state(self.hardware.device) if cuda else None),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch = state["epoch"]
        self.history = state["history"]
        self.peak_memory = state["peak_memory"]
        self.position = state["position"]
        self.diverged_epoch = state["diverged_epoch"]
        self.averaged = state["averaged"]
        self.test_error_tta = state.get("test_error_tta")
        self.step.load_state_dict(state["totals"])
        self.watch.reset(state["seconds"])
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.optimizer.repeats_batch and self.done:
            self.step.remember(next(self.train.epoch(*divmod(self.done - 1, len(self.train)))))
        self.averages.load_state_dict(state["averages"])
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])
        torch.set_rng_state(state["generators"][self.processes.rank])
        if self.hardware.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_generators"][self.processes.rank], self.hardware.device)

    def _freeze(self) -> None:
        """Train the parameters of `trainer.freeze` in the first epochs only.

        It follows from the epoch alone, so that a resumed run needs no state of it.
        """
        trainer = self.config.trainer
        if trainer.freeze is None:
            return

        trained = self.epoch < trainer.freeze_after
        parameters = [self.model.get_parameter(name) for name in trainer.freeze]
        if any(p.requires_grad != trained for p in parameters):
            for p in parameters:
                p.requires_grad_(trained)
            self.step.recapture()  # a captured step has the gradients of before

    def _tell_pace(self, estimate: bool) -> None:
        """Warn of a run that takes hours, or has become slow; steps of one pass and of two have a pace each."""
        start = self.optimizer.start
        if self.done == start:
            self.pace = Pace()
        twice = self.steps - start if self.done < start else 0
        self.pace.after_step(self.watch.seconds, self.position, self.steps - self.done + twice if estimate else None)

    def _radius(self) -> schedules.Schedule | None:
        optimizer = self.config.optimizer
        schedule = self.config.schedule
        if optimizer.rho is None:
            return None
        return schedules.radius(
            optimizer.rho_schedule,
            rho=optimizer.rho,
            rho_min=optimizer.rho_min,
            steps=self.steps,
            eta=self.eta,
            lr=optimizer.base.lr,
            lr_min=schedule.lr_min,
        )

    def _end_epoch(self) -> None:
        """Note what was measured in an epoch of training, and whether it came to nothing."""
        errors = self.step.read()
        t = self.done - 1
        skipped = int(self.optimizer.skipped)
        self._note("lr", self.eta(t))
        self._note("rho", self.rho(t) if self.rho is not None else None)
        for name, error in errors.items():
            self._note(name, error)
        self._note("loss_scale", self.scaler.get_scale() if self.scaler else None)
        self._note("skipped_steps", skipped - sum(self.history.get("skipped_steps", [])))
        self._note("train_seconds", self.watch.seconds)
        self.watch.reset()
        limit = self.config.trainer.max_skipped
        if limit is None:
            limit = max(MAX_SKIPPED, self.steps // SKIPPED_OF)
        if skipped > limit or not errors["train_loss"] <= EXPLODED:
            self.diverged_epoch = self.epoch + 1
        self.averages.after_epoch(self.epoch + 1)

    def _evaluate(self) -> None:
        trainer = self.config.trainer
        started = time.perf_counter()
        last = self.epoch + 1 == trainer.epochs or self.diverged_epoch is not None

        def measure(wrapped: Callable[[nn.Module], nn.Module] = lambda model: model) -> dict[str, float]:
            self.processes.copy_buffers(self.model)
            arguments = self.test, trainer.eval_batch_size, self.hardware, self.processes
            if self.step.compiled:
                try:
                    return evaluate(wrapped(self.eval_model), *arguments)
                except Exception as error:
                    self.step.give_up_compiling(error)
            return evaluate(wrapped(self.model), *arguments)

        def estimate() -> None:
            estimate_on_training_images(self.model, self.train, trainer.epochs, self.hardware, self.processes)

        if last and self.optimizer.perturbs_first:
            estimate()
        measured = {}
        evaluated = last or (self.epoch + 1) % trainer.eval_every == 0
        probed = self.probe is not None and (last or self.probe.is_due(self.epoch + 1))
        probe_seconds = 0.0
        if evaluated or probed:
            with contextlib.ExitStack() as evaluation:
                if evaluation.enter_context(evaluated_weights(self.optimizer.base_optimizer)):
                    evaluation.enter_context(frozen_statistics(self.model))
                    estimate()
                measured = measure() if evaluated else {}
                if last and trainer.test_time_augmentation:
                    self.test_error_tta = measure(AveragedViews)["test_error"]
                if probed:
                    probe_started = time.perf_counter()
                    measured |= self.processes.on_main_process(lambda: self.probe(self.model))
                    probe_seconds = measured[Probe.SECONDS] = time.perf_counter() - probe_started
        for name in MEASURES:
            self._note(name, measured.get(name))
        if last:
            self.averaged = self.averages.evaluate(self.train, trainer.epochs, self.hardware, self.processes, measure)
            mostly_skipped = self.history["skipped_steps"][-1] > len(self.train) / 2
            if self.diverged_epoch is None and (mostly_skipped or not math.isfinite(measured["test_loss"])):
                self.diverged_epoch = self.epoch + 1
        self._note("eval_seconds", time.perf_counter() - started - probe_seconds)
        before = [name for name in self.history if name.startswith(Probe.PREFIX)]  # by a process before this one
        for name in dict.fromkeys([*before, *(self.probe.names if self.probe is not None else [])]):
            self._note(name, measured.get(name))

    def _note(self, name: str, value: float | None) -> None:
        """Add a value of this epoch; what earlier code has not measured is None in the epochs before."""
        values = self.history.setdefault(name, [])
        values += [None] * (self.epoch - len(values))
        values.append(value)
