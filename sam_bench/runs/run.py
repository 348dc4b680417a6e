"""One run, from a config to a finished record."""

import contextlib
import dataclasses
import functools
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch

from sam_bench.config.schema import Config
from sam_bench.data.images import Dataset
from sam_bench.errors import Interrupted, ResourceError, StateError
from sam_bench.loggers.console import Reporter
from sam_bench.loggers.wandb import Mirror, NoMirror
from sam_bench.runs.checkpoint import Checkpoints
from sam_bench.runs.lock import RunLock
from sam_bench.runs.provenance import code_versions
from sam_bench.runs.record import SCHEMA_VERSION, RunFiles
from sam_bench.runs.spec import batchnorm_policy, check_shares, describe, files_of, identify, shared_examples
from sam_bench.runtime.device import Hardware, is_out_of_memory
from sam_bench.runtime.distributed import Processes
from sam_bench.runtime.signals import Interruption
from sam_bench.training.build import build_network, build_optimizer, load_data, obtain_data, prepare, verify_data
from sam_bench.training.engines import choose_engine
from sam_bench.training.loop import Training

ELSEWHERE = "Another process of the run was asked to end"


def check(configs: list[Config], here: bool = True) -> None:
    """Find out, before anything is created or trained, whether these runs can be done; obtains their data.

    Args:
        here: whether they will be done on this machine, by this process or others.

    Raises:
        UserError: the device, the network or the data are not to be had, batches cannot be shared by the processes, or
            the record of an earlier run is damaged.
    """
    verified, built = set(), set()
    for config in configs:
        if here:
            _, files = located(config)
            if files.finished() is not None and not config.trainer.rerun:
                continue
            files.check()
        check_shares(config)
        if (config.model, config.optimizer) not in built:
            with torch.device("meta"):
                build_optimizer(config, build_network(config))
            built.add((config.model, config.optimizer))
        if (config.data.name, config.data.folder) not in verified:
            verify_data(config.data)
            verified.add((config.data.name, config.data.folder))


def located(config: Config) -> tuple[Hardware, RunFiles]:
    """On what the run is computed here, and where it keeps what it has.

    Raises:
        ConfigError: there is no such device, or it does not allow the engine that is asked for.
    """
    hardware = Hardware.choose(config.trainer.device, config.trainer.precision)
    hardware = dataclasses.replace(hardware, engine=choose_engine(config, hardware)[0])
    return hardware, files_of(config, hardware)


def has_gpu() -> bool:
    """Whether torch finds a CUDA device here."""
    return torch.cuda.is_available()


def execute(config: Config) -> dict[str, Any]:
    """Do what the config describes, as far as it is not done: skip a finished run, go on with a broken one.

    Where torchrun has started several processes, all of them call this, and one of them writes and speaks. SIGTERM,
    SIGINT, SIGUSR1 and SIGUSR2, while it trains, make it save a checkpoint after the present step and end; a function
    that handled the signal before is then called.

    Returns:
        The run's record, as it stands in its file.

    Raises:
        UserError: the data, the device or a file of an earlier run is not as it should be, another process works on the
            run, a file cannot be written, or there is not enough memory. What was saved before is as it was.
        Interrupted: the run was asked to end, or `trainer.max_minutes` are over.
    """
    return attempt(config, lambda: False)[0]


def attempt(config: Config, asked_to_end: Callable[[], bool]) -> tuple[dict[str, Any], bool]:
    """As `execute`, and whether anything was left to do.

    Args:
        asked_to_end: looked at after each step, as if a signal had come.
    """
    interruption = Interruption(config.trainer.max_minutes, asked_to_end)
    hardware, files = located(config)
    hardware.configure(config.trainer.deterministic)
    check_shares(config)
    processes = Processes(hardware.device.type)

    def earlier() -> dict[str, Any] | None:
        return processes.by_leader(lambda: None if config.trainer.rerun else files.finished())

    if (record := earlier()) is not None:
        return record, False
    processes.by_leader(lambda: obtain_data(config.data))
    dataset = load_data(config.data)
    held = contextlib.ExitStack()

    def take() -> None:
        held.callback(RunLock(files.lock).release)

    processes.by_leader(take)
    with held:
        if (record := earlier()) is not None:  # another process has just finished it
            return record, False
        try:
            _train(config, files, dataset, hardware, processes, interruption)
            return processes.by_leader(files.finished), True
        except Exception as error:
            if processes.leads and not isinstance(error, Interrupted):
                files.fail(traceback.format_exc())
            raise


def _train(
    config: Config,
    files: RunFiles,
    dataset: Dataset,
    hardware: Hardware,
    processes: Processes,
    interruption: Interruption,
) -> None:
    """Train from where the run stands, and write its record."""
    run_id, warnings = files.run_id, []
    hardware.forget_peak_memory()
    training = prepare(config, dataset, hardware, processes)
    checkpoints = Checkpoints(files.folder, run_id, warnings.append)

    def begin() -> dict[str, Any] | None:
        if config.trainer.rerun and files.finished() is not None:
            files.set_aside()
        return checkpoints.load()

    origin = {"dataset_sha256": dataset.sha256, "code": [code_versions()], "threads": torch.get_num_threads()}
    if (state := processes.by_leader(begin)) is not None:
        warnings += _go_on(training, state, origin)

    mirror = Mirror(config, run_id, files.folder) if processes.leads and config.logger.name == "wandb" else NoMirror()
    kind, summary = config.trainer.progress if processes.leads else "none", None
    try:
        with Reporter(kind, run_id, training.steps, training.done) as reporter, interruption:
            whence = f", on from epoch {training.epoch}, step {training.position}" if training.done else ""
            reporter.say(f"{run_id}  {describe(config, hardware)}{whence}")
            if slower := choose_engine(config, hardware)[1]:
                reporter.say(f"{run_id}  {slower}")
            for warning in warnings if processes.leads else ():
                reporter.warn(f"{run_id}  {warning}")
            _train_and_save(config, training, checkpoints, origin, reporter, mirror, interruption)
            record = make_record(config, run_id, dataset, training, origin["code"])
            processes.by_leader(lambda: files.finish(record))
            for name, measured in training.averaged.items():
                values = "  ".join(f"{key} {value:.4g}" for key, value in measured.items())
                reporter.say(f"{run_id}  averaged ({name})  {values}")
            if training.diverged_epoch is not None and processes.leads:
                reporter.warn(
                    f"{run_id}  diverged in epoch {training.diverged_epoch}: it is counted in tables, and left out of "
                    "their means"
                )
            reporter.say(f"{run_id}  written: {files.record}")
            summary = {name: record[name] for name in ("test_error", "best_test_error", "status")}
            (late,) = processes.any(interruption.signal is not None)
            if late:  # nothing was left to train, but the program is to end
                raise Interrupted(f"{interruption.reason or ELSEWHERE}: {run_id} is finished", finished=True)
    except Interrupted:
        interruption.hand_on()
        raise
    finally:
        mirror.finish(summary)


def _go_on(training: Training, state: dict[str, Any], origin: dict[str, Any]) -> list[str]:
    """Continue from a checkpoint; returns what is to be said about it.

    Raises:
        StateError: it was made with other data.
    """
    if state["dataset_sha256"] != origin["dataset_sha256"]:
        raise StateError(f"the checkpoints of {state['run_id']} were made with other data; move them away")
    training.load_state_dict(state["training"])
    said = []
    if state["code"][-1] != origin["code"][0]:
        said.append("the code or its libraries have changed since the checkpoint: the record names both")
        origin["code"] = state["code"] + origin["code"]
    else:
        origin["code"] = state["code"]
    if state["threads"] != origin["threads"] and training.hardware.device.type == "cpu":
        said.append(
            f"{origin['threads']} threads, and {state['threads']} until the checkpoint: rounding errors will not be "
            f"those of an uninterrupted run; OMP_NUM_THREADS={state['threads']} keeps them"
        )
    return said


def _train_and_save(
    config: Config,
    training: Training,
    checkpoints: Checkpoints,
    origin: dict[str, Any],
    reporter: Reporter,
    mirror: NoMirror,
    interruption: Interruption,
) -> None:
    """Train to the end, with a checkpoint whenever one is due.

    Raises:
        Interrupted: the run was asked to end; a checkpoint was saved.
        ResourceError: there is no memory for a step.
    """
    trainer, processes, saved = config.trainer, training.processes, time.monotonic()
    minutes = trainer.checkpoint_minutes
    try:
        for epoch_done in training.run(reporter):
            if epoch_done:
                latest = {name: values[-1] for name, values in training.history.items()}
                mirror.log({"epoch": training.epoch} | latest)
            due = epoch_done and trainer.checkpoint_every is not None and training.epoch % trainer.checkpoint_every == 0
            late = minutes is not None and time.monotonic() - saved >= 60 * minutes
            late, stop = processes.any(late, interruption.reason is not None)
            if due or late or stop or training.ended:
                state = origin | {"training": training.state_dict()}
                processes.by_leader(functools.partial(checkpoints.save, training.epoch, training.position, state))
                saved = time.monotonic()
            if stop and not training.ended:
                raise Interrupted(
                    f"{interruption.reason or ELSEWHERE}: {checkpoints.run_id} is saved after "
                    f"{training.done} of {training.steps} steps; the same command goes on from there",
                    by_signal=interruption.signal is not None,
                )
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise ResourceError(_no_memory(config, training)) from error


def _no_memory(config: Config, training: Training) -> str:
    trainer, own = config.trainer, config.trainer.batch_size // training.processes.size
    if training.position == len(training.train):  # the epoch is trained
        return (
            f"{training.hardware.name} has not enough memory to evaluate trainer.eval_batch_size="
            f"{trainer.eval_batch_size} images at once: lower it"
        )
    size = min(trainer.micro_batch_size or own, config.optimizer.m or own)
    ways = [f"trainer.micro_batch_size={max(size // 2, 1)} (the perturbation stays that of the whole batch)"]
    ways = ways if config.optimizer.m is None and size > 1 else []
    ways += ["a smaller trainer.batch_size, which is another protocol", "a smaller model"]
    return (
        f"{training.hardware.name} has not enough memory for trainer.batch_size={trainer.batch_size}, {size} examples "
        f"at once; the weights are as before the step. Choose {', or '.join(ways)}"
    )


def make_record(
    config: Config, run_id: str, dataset: Dataset, training: Training, code: list[dict[str, Any]]
) -> dict[str, Any]:
    """What is kept of a run. Errors in percent, the last epoch's first; seconds without evaluation and start-up.

    Args:
        code: versions and commits that the run was trained with, the last ones last; several, where they changed.
    """
    history, optimizer, hardware = training.history, training.optimizer, training.hardware
    seconds = sum(history["train_seconds"])
    in_fact = hardware if training.step.compiled else dataclasses.replace(hardware, engine="eager")
    return {
        "schema_version": SCHEMA_VERSION,
        "run_id": run_id,
        "experiment": config.experiment,
        "method": config.optimizer.name,
        "seed": config.seed,
        "status": "finished" if training.diverged_epoch is None else "diverged",
        "diverged_epoch": training.diverged_epoch,
        "test_error": history["test_error"][-1],
        "best_test_error": min(error for error in history["test_error"] if error is not None),
        "test_loss": history["test_loss"][-1],
        "averaged": training.averaged,
        "train_loss": history["train_loss"][-1],
        "epochs": training.epoch,
        "steps": training.done,
        "passes": _number(optimizer.passes),
        "m": shared_examples(config),
        "processes": training.processes.size,
        "skipped_steps": int(optimizer.skipped),
        "train_seconds": seconds,
        "eval_seconds": sum(history["eval_seconds"]),
        "images_per_second": training.epoch * training.train.images / seconds,
        "peak_memory_bytes": training.peak_memory,
        "parameters": sum(p.numel() for p in training.model.parameters()),
        "device": hardware.name,
        "precision": hardware.precision,
        "engine": training.step.engine,
        "compiled": training.step.compiled,
        "last_batch": config.trainer.last_batch,
        "batchnorm": batchnorm_policy(config),
        "dataset": dataset.name,
        "dataset_sha256": dataset.sha256,
        "train_images": len(dataset.train),
        "test_images": len(dataset.test),
        "config": identify(config, in_fact),
        "history": history,
        **code[-1],
        "earlier_code": code[:-1],
    }


def _number(passes: float) -> int | float:
    """Without the rounding errors of the parts that it was summed from."""
    return round(passes) if abs(passes - round(passes)) < 1e-6 else round(passes, 6)
