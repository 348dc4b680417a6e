"""A run, from its spec to its finished record."""

import contextlib
import logging
import statistics
import time
import traceback
from collections.abc import Callable, Iterable
from typing import Any

import torch

from sam_bench.config.schema import Config
from sam_bench.data.images import Dataset
from sam_bench.errors import Interrupted, ResourceError, StateError
from sam_bench.loggers.base import Logger, Run
from sam_bench.loggers.console import Console
from sam_bench.loggers.registry import make_loggers
from sam_bench.optim.registry import BASES
from sam_bench.runs.checkpoint import Checkpoints
from sam_bench.runs.lock import RunLock
from sam_bench.runs.provenance import code_versions
from sam_bench.runs.record import SCHEMA_VERSION, Record, summary_of
from sam_bench.runs.spec import RunSpec, check_shares
from sam_bench.runtime.device import is_out_of_memory
from sam_bench.runtime.distributed import Processes
from sam_bench.runtime.output import lossy_output
from sam_bench.runtime.signals import Interruption
from sam_bench.training.build import build_network, build_optimizer, load_data, obtain_data, prepare, verify_data
from sam_bench.training.loop import Training

MESSAGES = logging.getLogger("sam_bench")
MESSAGES.addHandler(logging.NullHandler())  # silent unless a console, or a handler of the user's own, is added

#: The reason given by a process that ends because another process of the run does.
ELSEWHERE = "Another process of the run was asked to end"


def check(configs: list[Config], here: bool = True) -> dict[Config, RunSpec]:
    """Check, before anything is created or trained, that these runs can be done, and obtain their data.

    Args:
        here: True if they will be done on this machine, by this process or others.

    Returns:
        The spec of each run; empty if they will be done on another machine.

    Raises:
        UserError: the device, the network or the data are not available, batches do not divide across processes, a
            folder cannot be written to, or the record of an earlier run is damaged.
    """
    specs = {}
    networks = {}
    verified = set()
    for config in configs:
        if here:
            spec = specs[config] = RunSpec.resolve(config)
            if spec.files.finished() is not None and not config.trainer.rerun:
                continue
            spec.files.check()
        check_shares(config)

        # On the meta device weights take neither time nor memory; the runs of a sweep often share a network.
        with torch.device("meta"):
            network = config.model, config.data.name
            if network not in networks:
                networks[network] = build_network(config)
            build_optimizer(config, networks[network])

        data = config.data.name, config.data.folder, config.data.labels
        if data not in verified:
            verify_data(config.data)  # the images stay in memory for the run
            verified.add(data)
    return specs


def has_gpu() -> bool:
    """Return True if torch finds a CUDA device on this machine."""
    return torch.cuda.is_available()


def run(
    spec: RunSpec, asked_to_end: Callable[[], bool] = lambda: False, loggers: Iterable[Logger] = ()
) -> tuple[Record, bool]:
    """Do a run: start it, resume it from its checkpoint, or return its record if it is finished.

    If torchrun has started several processes, all of them call this; only the main one writes files and messages.
    SIGTERM, SIGINT, SIGUSR1 and SIGUSR2 during training make the run save a checkpoint after the current step and end.
    The signal's earlier handler is then called.

    Args:
        asked_to_end: called after each step; True ends the run as a signal does.
        loggers: loggers besides those in the configuration.

    Returns:
        The run's record, read from its file, and True if anything was left to do.

    Raises:
        UserError: the data, the device or a file of an earlier run is not as it should be, another process works on the
            run, a file cannot be written, or there is not enough memory. What was saved before is unchanged.
        Interrupted: the run was asked to end, or `trainer.max_minutes` have passed.
    """
    with lossy_output():
        return _run(spec, asked_to_end, loggers)


def _run(spec: RunSpec, asked_to_end: Callable[[], bool], loggers: Iterable[Logger]) -> tuple[Record, bool]:
    """Do a run, with the arguments, results and errors of `run`."""
    config = spec.config
    files = spec.files
    interruption = Interruption(config.trainer.max_minutes, asked_to_end)
    spec.hardware.configure(config.trainer.deterministic)
    check_shares(config)
    processes = Processes(spec.hardware.device.type)
    locks = contextlib.ExitStack()

    def earlier_record() -> Record | None:
        return processes.on_main_process(lambda: None if config.trainer.rerun else files.finished())

    def lock() -> None:
        locks.callback(RunLock(files.lock).release)

    if (record := earlier_record()) is not None:
        if not config.analysis.is_off and "analysis" not in record:
            MESSAGES.warning(
                f"{spec.run_id} was finished without an analysis: trainer.rerun=true trains it again, with one; "
                f"python -m sam_bench analyse run={spec.run_id} measures its last weights"
            )
        return record, False

    processes.on_main_process(lambda: obtain_data(config.data))
    dataset = load_data(config.data)
    with locks:
        processes.on_main_process(lock)
        if (record := earlier_record()) is not None:  # finished by another process before the lock was taken
            return record, False
        try:
            return _RunInProgress(spec, dataset, processes, interruption).train(loggers), True
        except Exception as error:
            if processes.is_main_process and not isinstance(error, Interrupted):
                files.fail(traceback.format_exc())
            raise


class _RunInProgress:
    """A run that is not finished, from its newest checkpoint, or from scratch, to its record."""

    def __init__(self, spec: RunSpec, dataset: Dataset, processes: Processes, interruption: Interruption):
        self.spec = spec
        self.dataset = dataset
        self.processes = processes
        self.interruption = interruption
        self.loggers: list[Logger] = []
        #: Warnings from before the loggers start, to be shown then.
        self.warnings: list[str] = []

        spec.hardware.forget_peak_memory()
        self.training = prepare(spec.config, dataset, spec.hardware, spec.engine, processes)
        self.checkpoints = Checkpoints(spec.files.folder, spec.run_id, self.warnings.append)
        #: Data, code and threads that the result comes from, part of every checkpoint.
        self.origin = {
            "dataset_sha256": dataset.sha256,
            "code": [code_versions(*BASES[spec.config.optimizer.base.name].packages)],
            "threads": torch.get_num_threads(),
        }

    def train(self, loggers: Iterable[Logger]) -> Record:
        """Resume or start the run, train it to its end, and return its record."""
        self.resume()
        summary = None
        try:
            with self.interruption:
                self.start(loggers)
                self.train_and_save()
                record = make_record(self.spec, self.dataset, self.training, self.origin["code"])
                record = self.processes.on_main_process(lambda: self.spec.files.finish(record))
                self.report()
                summary = summary_of(record)

                # A signal after the last step leaves nothing to resume, but must still end the program.
                (was_signalled,) = self.processes.any(self.interruption.signal is not None)
                if was_signalled:
                    reason = self.interruption.reason or ELSEWHERE
                    raise Interrupted(f"{reason}: {self.spec.run_id} is finished", finished=True)
        except Interrupted:
            self.interruption.hand_on()
            raise
        finally:
            self.loggers.reverse()  # the console ends last, to show the messages of the others
            self.notify(lambda logger: logger.finish(summary))
        return record

    def resume(self) -> None:
        """Load the newest checkpoint, if there is one; with `trainer.rerun` set a finished run aside first.

        Raises:
            StateError: the checkpoint was made with other data, or there are checkpoints and none can be used.
        """

        def newest() -> dict[str, Any] | None:
            if self.spec.config.trainer.rerun and self.spec.files.finished() is not None:
                self.spec.files.set_aside()
            return self.checkpoints.load()

        state = self.processes.on_main_process(newest)
        origin = self.origin
        if state is None:
            return

        if state["dataset_sha256"] != origin["dataset_sha256"]:
            raise StateError(f"the checkpoints of {state['run_id']} were made with other data; move them away")
        self.training.load_state_dict(state["training"])

        code = state["code"]
        if code[-1] != origin["code"][0]:
            self.warnings.append("the code or its libraries have changed since the checkpoint: the record lists both")
            code = code + origin["code"]
        origin["code"] = code

        if state["threads"] != origin["threads"] and self.spec.hardware.device.type == "cpu":
            self.warnings.append(
                f"the run uses {origin['threads']} threads now, and used {state['threads']} before the checkpoint: its "
                "rounding errors will differ from those of an uninterrupted run. "
                f"OMP_NUM_THREADS={state['threads']} keeps them the same"
            )

    def start(self, loggers: Iterable[Logger]) -> None:
        """Create the loggers and announce the run to them; only the main process has loggers."""
        MESSAGES.disabled = not self.processes.is_main_process
        if MESSAGES.disabled:
            return

        spec = self.spec
        training = self.training
        console = Console(spec.config.trainer.progress)
        training.on_step = console.step
        resumed_from = f", continues from epoch {training.epoch}, step {training.position}" if training.done else ""
        about = Run(
            spec.run_id,
            spec.config.experiment,
            spec.describe() + self.describe_wrong_labels() + resumed_from,
            spec.identity,
            spec.files.folder,
            spec.config.trainer.epochs,
            training.steps,
            training.done,
        )
        self.loggers = [console, *make_loggers(spec.config.logger), *loggers]
        self.notify(lambda logger: logger.start(about))

        if spec.engine_reason:
            MESSAGES.info(spec.engine_reason)
        for warning in self.warnings:
            MESSAGES.warning(warning)

    def describe_wrong_labels(self) -> str:
        """Return the share of wrong training labels, for the run's description; empty without label noise."""
        train = self.dataset.train
        noisy = train.true_labels is not None
        return f", {100 * train.wrong_labels / len(train):.1f} % of the training labels wrong" if noisy else ""

    def notify(self, call: Callable[[Logger], None]) -> None:
        """Call something of every logger; a logger that fails is left out from then on, and the run continues."""
        for logger in list(self.loggers):
            try:
                call(logger)
            except Exception as error:
                self.loggers.remove(logger)
                name = f"{type(logger).__module__}.{type(logger).__name__}"
                MESSAGES.warning(f"the logger {name} failed and is left out: {type(error).__name__}: {error}")

    def train_and_save(self) -> None:
        """Train to the end, with a checkpoint whenever one is due.

        Raises:
            Interrupted: the run was asked to end; a checkpoint was saved.
            ResourceError: there is not enough memory for a step or an evaluation.
        """
        training = self.training
        trainer = self.spec.config.trainer
        saved_at = time.monotonic()
        try:
            for epoch_done in training.run():
                if epoch_done:
                    latest = {name: values[-1] for name, values in training.history.items()}
                    self.notify(lambda logger, latest=latest: logger.log(training.epoch, latest))

                # Clocks and signals differ between processes, so all of them agree before any saves or ends.
                every = trainer.checkpoint_every
                minutes = trainer.checkpoint_minutes
                is_due = epoch_done and every is not None and training.epoch % every == 0
                is_overdue = minutes is not None and time.monotonic() - saved_at >= 60 * minutes
                is_overdue, must_stop = self.processes.any(is_overdue, self.interruption.reason is not None)
                if is_due or is_overdue or must_stop or training.ended:
                    self.save()
                    saved_at = time.monotonic()
                if must_stop and not training.ended:
                    raise Interrupted(
                        f"{self.interruption.reason or ELSEWHERE}: {self.spec.run_id} is saved after "
                        f"{training.done} of {training.steps} steps; the same command continues from there",
                        by_signal=self.interruption.signal is not None,
                    )
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise ResourceError(_out_of_memory_message(self.spec, training)) from error

    def save(self) -> None:
        """Write a checkpoint of the current state."""
        state = self.origin | {"training": self.training.state_dict()}
        training = self.training
        self.processes.on_main_process(lambda: self.checkpoints.save(training.epoch, training.position, state))

    def report(self) -> None:
        """Log the results that the last epoch's line does not have, and where the record is."""
        if not self.processes.is_main_process:
            return

        if self.training.test_error_tta is not None:
            MESSAGES.info(f"with test-time augmentation  test_error {self.training.test_error_tta:.4g}")
        for name, measured in self.training.averaged.items():
            values = "  ".join(f"{key} {value:.4g}" for key, value in measured.items())
            MESSAGES.info(f"averaged ({name})  {values}")
        if self.training.diverged_epoch is not None:
            epoch = self.training.diverged_epoch
            MESSAGES.warning(f"diverged in epoch {epoch}: tables count this run, and leave it out of their means")
        MESSAGES.info(f"written: {self.spec.files.record}")


def _out_of_memory_message(spec: RunSpec, training: Training) -> str:
    """Return the message for a step or an evaluation that needs too much memory, with the settings that need less."""
    trainer = spec.config.trainer
    m = spec.config.optimizer.m
    device = spec.hardware.name
    batch_per_process = trainer.batch_size // spec.world_size

    if training.position == len(training.train):  # all steps of the epoch are done, so it was evaluating
        return (
            f"{device} has not enough memory to evaluate trainer.eval_batch_size={trainer.eval_batch_size} images at "
            f"once{'' if training.probe is None else ', or analysis.batch_size'}: lower it"
        )

    size = min(trainer.micro_batch_size or batch_per_process, m or batch_per_process)
    fixes = []
    if m is None and not training.optimizer.selects_examples and size > 1:  # else micro-batches are not allowed
        fixes.append(f"trainer.micro_batch_size={size // 2} (the whole batch still shares one perturbation)")
    fixes += ["a smaller trainer.batch_size, which changes the protocol", "a smaller model"]
    return (
        f"{device} has not enough memory for trainer.batch_size={trainer.batch_size}, {size} examples at once; the "
        f"weights are as before the step. Choose {', or '.join(fixes)}"
    )


def make_record(spec: RunSpec, dataset: Dataset, training: Training, code: list[dict[str, Any]]) -> Record:
    """Return the record of a run.

    Errors are in percent, and training seconds exclude evaluation. The first epoch's seconds include compiling and
    capturing, so images per second are the median epoch's.

    Args:
        code: versions and commits that the run was trained with, the latest last; several if they changed on the way.
    """
    config = spec.config
    history = training.history
    optimizer = training.optimizer
    seconds = sum(history["train_seconds"])

    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": spec.run_id,
        "experiment": config.experiment,
        "method": config.optimizer.name,
        "seed": config.seed,
        "status": "finished" if training.diverged_epoch is None else "diverged",
        "diverged_epoch": training.diverged_epoch,
        "test_error": history["test_error"][-1],
        "best_test_error": min(error for error in history["test_error"] if error is not None),
        "test_loss": history["test_loss"][-1],
        "test_ece": history["test_ece"][-1],
        **({} if training.test_error_tta is None else {"test_error_tta": training.test_error_tta}),
        "averaged": training.averaged,
        "train_loss": history["train_loss"][-1],
        "epochs": training.epoch,
        "steps": training.done,
        "passes": _rounded(optimizer.passes),
        "m": spec.m,
        "processes": spec.world_size,
        "skipped_steps": int(optimizer.skipped),
        "train_seconds": seconds,
        "eval_seconds": sum(history["eval_seconds"]),
        "images_per_second": training.train.images / statistics.median(history["train_seconds"]),
        "peak_memory_bytes": training.peak_memory,
        "parameters": sum(p.numel() for p in training.model.parameters()),
        "device": spec.hardware.name,
        "precision": spec.hardware.precision,
        "engine": training.step.engine,
        "compiled": training.step.compiled,
        "drop_last": config.trainer.drop_last,
        "batchnorm": spec.batchnorm,
        "dataset": dataset.name,
        "dataset_sha256": dataset.sha256,
        "train_images": len(dataset.train),
        "test_images": len(dataset.test),
        "wrong_train_labels": dataset.train.wrong_labels,
        "wrong_test_labels": dataset.test.wrong_labels,
        "config": spec.identity_of(training.step.compiled),
        "history": history,
        **({"analysis": _analysis_settings(config, training)} if training.probe is not None else {}),
        **code[-1],
        "earlier_code": code[:-1],
    }


def _analysis_settings(config: Config, training: Training) -> dict[str, Any]:
    """Return the settings and the images' digest with which the sharpness in the history was measured."""
    settings = config.analysis.model_dump(mode="json", exclude={"name"})
    return {**settings, "images_sha256": training.probe.images.sha256}


def _rounded(passes: float) -> int | float:
    """Return the number of passes, rounded to remove the errors of summing fractions of a pass."""
    return round(passes) if abs(passes - round(passes)) < 1e-6 else round(passes, 6)
