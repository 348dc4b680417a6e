"""Sharpness that is measured while a run trains."""

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
LITTLE = [
    "analysis=sharpness", "analysis.every=2", "analysis.images=10", "analysis.eigenvalues=0",
    "analysis.trace_vectors=2", "analysis.radii=[0.1]", "analysis.adaptive_radii=[0.5]", "analysis.ascent_steps=1",
    "analysis.sigmas=[0.01]", "analysis.adaptive_sigmas=[0.1]", "analysis.draws=2",
]  # fmt: skip


CPU = Hardware(torch.device("cpu"), "fp32")


def probed(record):
    return {name: values for name, values in record["history"].items() if name.startswith("analysis_")}


@pytest.mark.parametrize("more", [[], ["trainer.eval_every=3"], ["optimizer=msam"], ["optimizer.base.lr=0.2"]])
def test_every_k_epochs_and_at_the_end(tiny_run, more):
    record = tiny_run(*RUN, *LITTLE, *more)
    history = probed(record)
    config = compose.compose([*LITTLE, "data=synthetic"])
    assert len(history) == len(measures.names(config.analysis)) + 1
    images = fixed_images(config.data, load_data(compose.compose([*TINY, *RUN, *more]).data).train, 10, CPU)
    assert record["analysis"]["images_sha256"] == images.sha256
    for name, values in history.items():
        measured = [value is not None for value in values]
        assert measured == [False, True, False, True, True], name


def test_the_last_are_those_of_the_last_weights_on_the_same_images(tiny_run, folder):
    spectrum = ["analysis.every=9", "analysis.eigenvalues=1"]
    record = tiny_run(*RUN, *LITTLE, *spectrum)
    config = compose.compose([*TINY, *RUN, *LITTLE, *spectrum])
    model = build_network(config).to(memory_format=torch.channels_last)
    model.load_state_dict(last_checkpoint(folder, record["run_id"])["training"]["model"])
    dataset = load_data(config.data)
    images = fixed_images(config.data, dataset.train, 10, CPU)
    found = measures.measure(model, images, config.analysis)
    assert {f"analysis_{name}": value for name, value in found.items()} == {
        name: values[-1] for name, values in probed(record).items() if name != "analysis_seconds"
    }
    assert found["ascent_0.1"] >= found["one_step_0.1"] and found["eigenvalue_1"] > 0


def test_a_run_is_the_same_with_and_without(tiny_run, folder, caplog):
    """It draws nothing and changes nothing; but what was finished without is not silently taken for what is asked."""
    plain = tiny_run(*RUN)
    weights = last_checkpoint(folder, plain["run_id"])["training"]["model"]
    assert not probed(plain) and "analysis" not in plain
    assert tiny_run(*RUN, *LITTLE) == plain
    assert "was finished without an analysis: trainer.rerun=true" in caplog.text
    record = tiny_run(*RUN, *LITTLE, "trainer.rerun=true")
    assert record["run_id"] == plain["run_id"] and record["analysis"]["every"] == 2
    again = last_checkpoint(folder, record["run_id"])["training"]["model"]
    assert all(torch.equal(again[name], value) for name, value in weights.items())
    others = {name: values for name, values in lasting(record)["history"].items() if not name.startswith("analysis_")}
    assert others == lasting(plain)["history"]


def test_a_run_that_goes_on_without_what_it_began_with_has_gaps(tiny_run, interrupted):
    interrupted([7])
    with pytest.raises(Interrupted):
        tiny_run(*RUN, *LITTLE)
    history = tiny_run(*RUN)["history"]
    assert history["analysis_loss"][1] is not None and history["analysis_loss"][2:] == [None] * 3
    assert {len(values) for values in history.values()} == {5}


def test_of_two_processes_one_measures_and_the_run_stays_what_it_is(folder, records):
    run = [*RUN, "experiment=smoke", "trainer.epochs=2", "trainer.device=cpu"]
    made = []
    for more in ([], [*LITTLE, "trainer.rerun=true"]):
        ends = side_by_side(command_line, *run, *more, cwd=folder)
        assert [code for code, _ in ends] == [0, 0], ends
        made += records("smoke").values()
    plain, record = made
    assert record["processes"] == 2 and record["history"]["train_loss"] == plain["history"]["train_loss"]
    config = compose.compose([*run, *LITTLE])
    model = build_network(config).to(memory_format=torch.channels_last)
    model.load_state_dict(last_checkpoint(folder, record["run_id"], "smoke")["training"]["model"])
    images = fixed_images(config.data, load_data(config.data).train, 10, CPU)
    found = measures.measure(model, images, config.analysis)
    last = {name: values[-1] for name, values in probed(record).items() if name != "analysis_seconds"}
    assert last == pytest.approx({f"analysis_{name}": value for name, value in found.items()}, rel=1e-4)


@pytest.mark.parametrize("option", [each for each in options("analysis") if each != "none"])
def test_names_are_those_of_what_is_measured(option, small_synthetic):
    config = compose.compose([f"analysis={option}", "data=synthetic", "model=resnet8", "analysis.images=10"])
    images = fixed_images(config.data, load_data(config.data).train, 10, CPU)
    found = measures.measure(build_network(config), images, config.analysis)
    assert list(found) == measures.names(config.analysis)
    assert all(math.isfinite(value) for value in found.values())


def test_images_are_balanced_and_the_same_for_every_run(small_synthetic):
    config = compose.compose(["data=synthetic", "data.label_noise=0.4"])
    train = load_data(config.data).train
    images = fixed_images(config.data, train, 50, CPU)
    chosen, _ = balanced(train, 50, 10)
    assert chosen.true_labels.bincount().tolist() == [5] * 10
    assert torch.equal(images.labels, chosen.labels)  # as trained on, the wrong ones too
    assert images.sha256 == fixed_images(config.data, train, 50, CPU).sha256
    assert images.sha256 != fixed_images(config.data, train, 40, CPU).sha256


def test_eigenvalues_that_are_not_found_are_a_warning_and_the_run_goes_on(tiny_run, monkeypatch, caplog):
    def fails(*arguments, **options):
        raise NotConverged("no eigenvalues: too many steps")

    monkeypatch.setattr(measures, "top_eigenpairs", fails)
    history = probed(tiny_run(*RUN, *LITTLE, "analysis.eigenvalues=1", "analysis.every=9"))
    assert "no eigenvalues: too many steps" in caplog.text
    assert history["analysis_eigenvalue_1"] == [None] * 5 == history["analysis_trace"]
    assert history["analysis_one_step_0.1"][-1] > 0


def test_a_network_that_has_come_to_nothing_is_measured_as_nothing(small_synthetic):
    config = compose.compose([*LITTLE, "data=synthetic", "model=resnet8"])
    model = build_network(config)
    with torch.no_grad():
        model.classifier.weight.fill_(math.nan)
    images = fixed_images(config.data, load_data(config.data).train, 10, CPU)
    assert all(math.isnan(value) for value in measures.measure(model, images, config.analysis).values())
