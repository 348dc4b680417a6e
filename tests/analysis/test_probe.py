"""Tests of the sharpness that is measured while a run trains."""

import math

import pytest
import torch

from sam_bench.analysis import measure as measures
from sam_bench.analysis.spectrum import NotConverged
from sam_bench.cli import compose
from sam_bench.data.images import balanced
from sam_bench.errors import Interrupted
from sam_bench.runtime.device import Hardware
from sam_bench.training.build import build_network, fixed_images, load_data
from tests.conftest import TINY, last_checkpoint, lasting, options
from tests.forked import command_line, side_by_side

RUN = ["model=resnet8", "trainer.epochs=5", "data.train_subset=20", "trainer.batch_size=10", "trainer.precision=fp32"]

#: Overrides of an analysis that measures something of each kind, cheaply.
ANALYSIS = [
    "analysis=sharpness", "analysis.every=2", "analysis.images=10", "analysis.eigenvalues=0",
    "analysis.trace_vectors=2", "analysis.radii=[0.1]", "analysis.adaptive_radii=[0.5]", "analysis.ascent_steps=1",
    "analysis.sigmas=[0.01]", "analysis.adaptive_sigmas=[0.1]", "analysis.draws=2",
]  # fmt: skip

CPU = Hardware(torch.device("cpu"), "fp32")


def analysis_history(record):
    return {name: values for name, values in record["history"].items() if name.startswith("analysis_")}


def last_analysis(record):
    """Return the last measures by name, without the time that they took."""
    return {name: values[-1] for name, values in analysis_history(record).items() if name != "analysis_seconds"}


def measure_last_weights(overrides, folder, run_id, experiment="default"):
    """Measure the weights of a run's last checkpoint, as a history names the measures."""
    config = compose.compose(overrides)
    model = build_network(config).to(memory_format=torch.channels_last)
    model.load_state_dict(last_checkpoint(folder, run_id, experiment)["training"]["model"])
    images = fixed_images(config.data, load_data(config.data).train, 10, CPU)
    return {f"analysis_{name}": value for name, value in measures.measure(model, images, config.analysis).items()}


@pytest.mark.parametrize("more", [[], ["trainer.eval_every=3"], ["optimizer=msam"], ["optimizer.base.lr=0.2"]])
def test_analysis_is_every_k_epochs_and_at_the_end(tiny_run, more):
    record = tiny_run(*RUN, *ANALYSIS, *more)
    history = analysis_history(record)

    config = compose.compose([*ANALYSIS, "data=synthetic"])
    assert len(history) == len(measures.names(config.analysis)) + 1
    images = fixed_images(config.data, load_data(compose.compose([*TINY, *RUN, *more]).data).train, 10, CPU)
    assert record["analysis"]["images_sha256"] == images.sha256

    for name, values in history.items():
        assert [value is not None for value in values] == [False, True, False, True, True], name


def test_last_analysis_is_of_the_last_weights(tiny_run, folder):
    overrides = [*RUN, *ANALYSIS, "analysis.every=9", "analysis.eigenvalues=1"]
    record = tiny_run(*overrides)
    last = last_analysis(record)
    assert last == measure_last_weights([*TINY, *overrides], folder, record["run_id"])
    assert last["analysis_ascent_0.1"] >= last["analysis_one_step_0.1"] and last["analysis_eigenvalue_1"] > 0


def test_analysis_does_not_change_the_run(tiny_run, folder, caplog):
    plain = tiny_run(*RUN)
    plain_weights = last_checkpoint(folder, plain["run_id"])["training"]["model"]
    assert not analysis_history(plain) and "analysis" not in plain

    # A finished run is not repeated for an analysis; a warning names the setting that repeats it.
    assert tiny_run(*RUN, *ANALYSIS) == plain
    assert "trainer.rerun=true" in caplog.text

    record = tiny_run(*RUN, *ANALYSIS, "trainer.rerun=true")
    assert record["run_id"] == plain["run_id"] and record["analysis"]["every"] == 2
    weights = last_checkpoint(folder, record["run_id"])["training"]["model"]
    assert all(torch.equal(weights[name], value) for name, value in plain_weights.items())
    history = lasting(record)["history"]
    assert {name: history[name] for name in history.keys() - analysis_history(record)} == lasting(plain)["history"]


def test_analysis_left_out_on_resume_leaves_gaps(tiny_run, interrupted):
    interrupted([7])
    with pytest.raises(Interrupted):
        tiny_run(*RUN, *ANALYSIS)
    history = tiny_run(*RUN)["history"]
    assert history["analysis_loss"][1] is not None and history["analysis_loss"][2:] == [None] * 3
    assert {len(values) for values in history.values()} == {5}


def test_analysis_in_two_processes_equals_that_in_one(folder, records):
    overrides = [*RUN, "experiment=smoke", "trainer.epochs=2", "trainer.device=cpu"]
    both = []
    for more in ([], [*ANALYSIS, "trainer.rerun=true"]):
        ends = side_by_side(command_line, *overrides, *more, cwd=folder)
        assert [code for code, _ in ends] == [0, 0], ends
        both += records("smoke").values()

    plain, record = both
    assert record["processes"] == 2 and record["history"]["train_loss"] == plain["history"]["train_loss"]
    in_one_process = measure_last_weights([*overrides, *ANALYSIS], folder, record["run_id"], "smoke")
    assert last_analysis(record) == pytest.approx(in_one_process, rel=1e-4)


@pytest.mark.parametrize("option", [each for each in options("analysis") if each != "none"])
def test_names_are_those_of_the_measures(option, small_synthetic):
    config = compose.compose([f"analysis={option}", "data=synthetic", "model=resnet8", "analysis.images=10"])
    images = fixed_images(config.data, load_data(config.data).train, 10, CPU)
    values = measures.measure(build_network(config), images, config.analysis)
    assert list(values) == measures.names(config.analysis)
    assert all(math.isfinite(value) for value in values.values())


def test_fixed_images_are_balanced_and_fixed(small_synthetic):
    config = compose.compose(["data=synthetic", "data.label_noise=0.4"])
    train = load_data(config.data).train
    images = fixed_images(config.data, train, 50, CPU)

    expected, _ = balanced(train, 50, 10)
    assert expected.true_labels.bincount().tolist() == [5] * 10
    assert torch.equal(images.labels, expected.labels)  # the labels used in training, including wrong ones
    assert images.sha256 == fixed_images(config.data, train, 50, CPU).sha256
    assert images.sha256 != fixed_images(config.data, train, 40, CPU).sha256


def test_missing_eigenvalues_warn_and_the_run_finishes(tiny_run, monkeypatch, caplog):
    def fail(*arguments, **options):
        raise NotConverged("no eigenvalues: too many steps")

    monkeypatch.setattr(measures, "top_eigenpairs", fail)
    history = analysis_history(tiny_run(*RUN, *ANALYSIS, "analysis.eigenvalues=1", "analysis.every=9"))

    assert "no eigenvalues: too many steps" in caplog.text
    assert history["analysis_eigenvalue_1"] == [None] * 5 == history["analysis_trace"]
    assert history["analysis_one_step_0.1"][-1] > 0


def test_measures_of_diverged_network_are_nan(small_synthetic):
    config = compose.compose([*ANALYSIS, "data=synthetic", "model=resnet8"])
    model = build_network(config)
    with torch.no_grad():
        model.classifier.weight.fill_(math.nan)
    images = fixed_images(config.data, load_data(config.data).train, 10, CPU)
    assert all(math.isnan(value) for value in measures.measure(model, images, config.analysis).values())
