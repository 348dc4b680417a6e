"""The training loop, the same for every method, network and device."""

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
from sam_bench.optim.registry import BASES
from sam_bench.optim.running_stats import frozen_statistics
from sam_bench.optim.sharpness_aware import SharpnessAware
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

#: The least limit on skipped steps, if `trainer.max_skipped` is not set.
MAX_SKIPPED = 200

#: In long runs one step of this many may be skipped. The scaled loss of float16 overflows in about one of 2,000.
SKIPPED_OF = 500

#: An epoch's mean loss, in nats, above which a run has diverged. Guessing among ten classes has a loss of 2.3.
EXPLODED = 100.0

#: One value per epoch under each name.
History = dict[str, list[float | None]]


@dataclass
class Training:
    """A run in progress: its state, and the loop that trains and evaluates it.

    Args:
        train, test: batches on the hardware's device.
    """

    config: Config
    model: nn.Module
    optimizer: SharpnessAware
    train: Batches
    test: Batches
    hardware: Hardware
    #: How steps are taken: "eager", "compile" or "graph".
    engine: str
    processes: Processes
    #: The module that steps train: the model, or with several processes its `DistributedDataParallel`.
    parallel: nn.Module

    #: Epochs done.
    epoch: int = 0
    #: Steps done in the present epoch.
    position: int = 0
    #: Measured values: one per epoch under each name.
    history: History = field(default_factory=dict)
    #: Peak memory in bytes, the most of all processes that worked on the run.
    peak_memory: int = 0
    #: The measures of each weight average, taken at the end of the run.
    averaged: dict[str, dict[str, float]] = field(default_factory=dict)
    #: The last epoch's test error with test-time augmentation, in percent; None if the run does not measure it.
    test_error_tta: float | None = None
    #: The epoch, from 1, in which the run diverged and ended; None if it did not.
    diverged_epoch: int | None = None

    #: The measurement of the loss around the weights; None if the run does not make it.
    probe: Probe | None = None
    #: Seconds of the epoch's training, without evaluation.
    watch: Stopwatch = field(default_factory=Stopwatch)
    pace: Pace = field(default_factory=Pace)
    #: Called after each step, with the images per second of the epoch's training so far.
    on_step: Callable[[float], None] = lambda images_per_second: None

    def __post_init__(self) -> None:
        """Create the schedules, the step and the weight averages."""
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
        self.rho = self._radius_schedule()

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
            # As in a captured step, so that both give the same bits.
            on_device = self.hardware.device.type == "cuda" and BASES[base.name].captured
            compiled = self.engine == "compile"
            self.step = Step(*arguments, compiled=compiled, rates_on_device=on_device, sums_loss=sums_loss)

        #: The model for evaluation, compiled if steps are.
        self.eval_model = compile_for(self.model) if self.step.compiled else self.model
        self.averages = Averages(self.config.averaging, self.model, trainer.epochs, self.steps)

    @property
    def steps(self) -> int:
        """Return the number of steps of the whole run."""
        return self.config.steps

    @property
    def done(self) -> int:
        """Return the number of steps done so far."""
        return self.epoch * len(self.train) + self.position

    @property
    def ended(self) -> bool:
        """Return True if all epochs are done, or the run has diverged."""
        return self.epoch == self.config.trainer.epochs or self.diverged_epoch is not None

    def run(self) -> Iterator[bool]:
        """Train from the current step to the last one.

        Yields False after each step, and True after each epoch. The state can be saved at a yield only. The time until
        the next step is not counted if `state_dict()` was called in it.
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
                    self._update_pace(estimate=first == 0)
                yield False
                self.watch.run()  # state_dict() pauses the watch

            self._end_epoch()
            self._evaluate()
            self.epoch += 1
            self.position = 0
            self.peak_memory = max(self.peak_memory, *self.processes.gather(self.hardware.peak_memory()))
            yield True

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a later process needs to resume: tensors and plain values. All processes call this."""
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
        """Restore what `state_dict` returned. All processes call this."""
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
            # The previous step's batch is not saved: the seed gives it again.
            self.step.remember(next(self.train.epoch(*divmod(self.done - 1, len(self.train)))))
        self.averages.load_state_dict(state["averages"])
        if self.scaler is not None:
            self.scaler.load_state_dict(state["scaler"])

        torch.set_rng_state(state["generators"][self.processes.rank])
        if self.hardware.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_generators"][self.processes.rank], self.hardware.device)

    def _freeze(self) -> None:
        """Freeze the parameters of `trainer.freeze` after their last epoch of training.

        This depends on the epoch alone, so a resumed run needs no state of it.
        """
        trainer = self.config.trainer
        if trainer.freeze is None:
            return

        trained = self.epoch < trainer.freeze_after
        parameters = [self.model.get_parameter(name) for name in trainer.freeze]
        if any(p.requires_grad != trained for p in parameters):
            for p in parameters:
                p.requires_grad_(trained)
            self.step.recapture()  # a captured step would still train them

    def _update_pace(self, estimate: bool) -> None:
        """Record the last step's pace, to warn of a run that takes hours or has become slow.

        Args:
            estimate: True to estimate the run's time.
        """
        # Steps before `start` have one pass, and later ones two, so each kind has a pace of its own. In an estimate
        # from the first kind, the later steps count twice.
        start = self.optimizer.start
        if self.done == start:
            self.pace = Pace()
        second_passes = self.steps - start if self.done < start else 0
        self.pace.after_step(
            self.watch.seconds, self.position, self.steps - self.done + second_passes if estimate else None
        )

    def _radius_schedule(self) -> schedules.Schedule | None:
        """Return the radius's schedule; None for a method without a radius."""
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
        """Append an epoch's training measures to the history, and check whether the run has diverged."""
        errors = self.step.read()
        t = self.done - 1
        skipped = int(self.optimizer.skipped)

        self._append("lr", self.eta(t))
        self._append("rho", self.rho(t) if self.rho is not None else None)
        for name, error in errors.items():
            self._append(name, error)
        self._append("loss_scale", self.scaler.get_scale() if self.scaler else None)
        self._append("skipped_steps", skipped - sum(self.history.get("skipped_steps", [])))
        self._append("train_seconds", self.watch.seconds)
        self.watch.reset()

        limit = self.config.trainer.max_skipped
        if limit is None:
            limit = max(MAX_SKIPPED, self.steps // SKIPPED_OF)
        if skipped > limit or not errors["train_loss"] <= EXPLODED:  # also true of NaN
            self.diverged_epoch = self.epoch + 1

        self.averages.after_epoch(self.epoch + 1)

    def _evaluate(self) -> None:
        """Evaluate the model if that is due after this epoch, and append the measures to the history.

        The last epoch's evaluation also evaluates the weight averages, and checks whether the run has diverged.
        """
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

        # Such a method has no unperturbed passes, so its running statistics are of perturbed weights.
        if last and self.optimizer.perturbs_first:
            estimate()

        measured = {}
        evaluates = last or (self.epoch + 1) % trainer.eval_every == 0
        probes = self.probe is not None and (last or self.probe.is_due(self.epoch + 1))
        probe_seconds = 0.0
        if evaluates or probes:
            with contextlib.ExitStack() as evaluation:
                # A base that evaluates an average of the weights needs statistics of that average, but only here.
                if evaluation.enter_context(evaluated_weights(self.optimizer.base_optimizer)):
                    evaluation.enter_context(frozen_statistics(self.model))
                    estimate()
                measured = measure() if evaluates else {}
                if last and trainer.test_time_augmentation:
                    self.test_error_tta = measure(AveragedViews)["test_error"]
                if probes:
                    probe_started = time.perf_counter()
                    measured |= self.processes.on_main_process(lambda: self.probe(self.model))
                    probe_seconds = measured[Probe.SECONDS] = time.perf_counter() - probe_started
        for name in MEASURES:
            self._append(name, measured.get(name))

        if last:
            self.averaged = self.averages.evaluate(self.train, trainer.epochs, self.hardware, self.processes, measure)
            mostly_skipped = self.history["skipped_steps"][-1] > len(self.train) / 2
            if self.diverged_epoch is None and (mostly_skipped or not math.isfinite(measured["test_loss"])):
                self.diverged_epoch = self.epoch + 1

        self._append("eval_seconds", time.perf_counter() - started - probe_seconds)

        # Measures that only an earlier process of this run made stay in the history, as None from here on.
        probed_before = [name for name in self.history if name.startswith(Probe.PREFIX)]
        for name in dict.fromkeys([*probed_before, *(self.probe.names if self.probe is not None else [])]):
            self._append(name, measured.get(name))

    def _append(self, name: str, value: float | None) -> None:
        """Append this epoch's value to the history; earlier epochs in which it was not measured are None."""
        values = self.history.setdefault(name, [])
        values += [None] * (self.epoch - len(values))
        values.append(value)
