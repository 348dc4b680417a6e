"""Tests of BatchNorm's statistics at the end of a run: from clean passes, or re-estimated."""

import pytest
import torch
from torch import nn

from sam_bench.cli.compose import compose
from sam_bench.optim.registry import METHODS
from sam_bench.optim.running_stats import reestimate_statistics
from sam_bench.report.table import Findings
from sam_bench.runs.spec import RunSpec
from sam_bench.runtime.distributed import Processes
from sam_bench.training.build import load_data, prepare
from sam_bench.training.evaluate import MEASURES, evaluate
from tests.conftest import TINY, last_checkpoint

#: Three batches an epoch; the last one is smaller.
RUN = ["model=resnet8", "trainer.device=cpu", "trainer.precision=fp32", "trainer.batch_size=4", "trainer.epochs=2"]


def load_finished(folder, record: dict, *overrides: str):
    """Return the training of a finished run, restored from its last checkpoint."""
    config = compose([*TINY, *RUN, *overrides])
    spec = RunSpec.resolve(config)
    processes = Processes(spec.hardware.device.type)
    training = prepare(config, load_data(config.data), spec.hardware, spec.engine, processes)
    training.load_state_dict(last_checkpoint(folder, record["run_id"])["training"])
    return training


def stem_statistics(training) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and variance of the first layer's outputs over the training set, batches weighted by size."""
    convolution, normalisation = training.model.stem
    assert isinstance(normalisation, nn.BatchNorm2d)

    mean = variance = torch.zeros(())
    with torch.no_grad():
        for batch in training.train.epoch(training.config.trainer.epochs):
            outputs = convolution(batch.images).transpose(0, 1).flatten(1)
            weight = len(batch) / training.train.images
            mean = mean + weight * outputs.mean(1)
            variance = variance + weight * outputs.var(1)
    return mean, variance


@pytest.mark.parametrize("name", ["msam", "sam", "sgd"])
def test_statistics_without_clean_pass_are_reestimated(tiny_run, folder, name):
    record = tiny_run(*RUN, f"optimizer={name}")
    training = load_finished(folder, record, f"optimizer={name}")

    mean, variance = stem_statistics(training)
    layer = training.model.stem[1]
    same_mean = torch.allclose(layer.running_mean, mean, atol=1e-6)
    same_variance = torch.allclose(layer.running_var, variance, rtol=1e-5)
    assert (same_mean and same_variance) == (name == "msam")

    arguments = training.test, training.config.trainer.eval_batch_size, training.hardware, training.processes
    assert evaluate(training.model, *arguments) == {key: record[key] for key in MEASURES}


@pytest.mark.parametrize("name", ["sgd", "gsam"])
def test_schedule_free_average_has_own_statistics(tiny_run, folder, name):
    overrides = [f"optimizer={name}", "optimizer/base=schedule_free", "schedule=constant", "trainer.eval_every=1"]
    record = tiny_run(*RUN, *overrides)
    training = load_finished(folder, record, *overrides)
    arguments = training.test, training.config.trainer.eval_batch_size, training.hardware, training.processes
    recorded = {key: record[key] for key in MEASURES}
    assert evaluate(training.model, *arguments) != recorded

    training.optimizer.base_optimizer.eval()
    reestimate_statistics(training.model, (batch.images for batch in training.train.epoch(2)))
    assert evaluate(training.model, *arguments) == recorded
    assert record["history"]["test_loss"][0] is not None


@pytest.mark.parametrize("batchnorm", ["clean", "both"])
@pytest.mark.parametrize("name", ["msam", "sam"])
def test_record_names_source_of_statistics(tiny_run, name, batchnorm):
    record = tiny_run(*RUN, f"optimizer={name}", f"optimizer.batchnorm={batchnorm}")
    expected = "re-estimated" if METHODS[name].cls.perturbs_first else batchnorm
    assert record["batchnorm"] == record["config"]["optimizer"]["batchnorm"] == expected
    assert any("BatchNorm re-estimated" in line for line in Findings.of([record]).remarks()) == (name == "msam")


def test_statistics_of_average_weight_batches_by_size(tiny_run, folder, monkeypatch):
    means = []

    def evaluate_and_record_mean(model, *arguments):
        means.append(model.stem[1].running_mean.clone())
        return evaluate(model, *arguments)

    monkeypatch.setattr("sam_bench.training.loop.evaluate", evaluate_and_record_mean)
    overrides = ["optimizer=sgd", "averaging=swa", "averaging.starts=[0.5]"]
    record = tiny_run(*RUN, *overrides)

    training = load_finished(folder, record, *overrides)
    with training.averages.by_name["swa 0.5"].swapped():
        mean, _ = stem_statistics(training)
    torch.testing.assert_close(means[-1], mean, rtol=0, atol=1e-6)
    assert not torch.allclose(means[-2], mean, atol=1e-6)  # of the weights that are not averaged
