"""BatchNorm's statistics at the end of a run: from clean passes, or re-estimated where there are none."""

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

RUN = ["model=resnet8", "trainer.device=cpu", "trainer.precision=fp32", "trainer.batch_size=4", "trainer.epochs=2"]
"""Three batches an epoch, the last one smaller."""


def at_the_end(folder, record: dict, *overrides: str):
    """The training of a finished run, as its last checkpoint has it."""
    config = compose([*TINY, *RUN, *overrides])
    spec = RunSpec.resolve(config)
    processes = Processes(spec.hardware.device.type)
    training = prepare(config, load_data(config.data), spec.hardware, spec.engine, processes)
    training.load_state_dict(last_checkpoint(folder, record["run_id"])["training"])
    return training


def statistics_of_the_stem(training) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of the first layer's outputs over the training images, batches counted by their size."""
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
def test_what_has_no_clean_pass_is_evaluated_with_statistics_of_a_last_one(tiny_run, folder, name):
    record = tiny_run(*RUN, f"optimizer={name}")
    training = at_the_end(folder, record, f"optimizer={name}")
    mean, variance = statistics_of_the_stem(training)
    layer = training.model.stem[1]
    estimated = torch.allclose(layer.running_mean, mean, atol=1e-6) and torch.allclose(
        layer.running_var, variance, rtol=1e-5
    )
    assert estimated == (name == "msam")
    arguments = training.test, training.config.trainer.eval_batch_size, training.hardware, training.processes
    assert evaluate(training.model, *arguments) == {name: record[name] for name in MEASURES}


@pytest.mark.parametrize("name", ["sgd", "gsam"])
def test_a_schedule_free_bases_average_is_evaluated_with_statistics_of_its_own(tiny_run, folder, name):
    overrides = [f"optimizer={name}", "optimizer/base=schedule_free", "schedule=constant", "trainer.eval_every=1"]
    record = tiny_run(*RUN, *overrides)
    training = at_the_end(folder, record, *overrides)
    arguments = training.test, training.config.trainer.eval_batch_size, training.hardware, training.processes
    measured = {key: record[key] for key in MEASURES}
    assert evaluate(training.model, *arguments) != measured
    training.optimizer.base_optimizer.eval()
    reestimate_statistics(training.model, (batch.images for batch in training.train.epoch(2)))
    assert evaluate(training.model, *arguments) == measured
    assert record["history"]["test_loss"][0] is not None


@pytest.mark.parametrize("batchnorm", ["clean", "both"])
@pytest.mark.parametrize("name", ["msam", "sam"])
def test_the_record_says_where_the_statistics_come_from(tiny_run, name, batchnorm):
    record = tiny_run(*RUN, f"optimizer={name}", f"optimizer.batchnorm={batchnorm}")
    expected = "re-estimated" if METHODS[name].perturbs_first else batchnorm
    assert record["batchnorm"] == record["config"]["optimizer"]["batchnorm"] == expected
    assert any("BatchNorm re-estimated" in line for line in Findings.of([record]).remarks()) == (name == "msam")


def test_an_average_is_evaluated_with_statistics_of_batches_counted_by_their_size(tiny_run, folder, monkeypatch):
    seen = []

    def looking(model, *arguments):
        seen.append(model.stem[1].running_mean.clone())
        return evaluate(model, *arguments)

    monkeypatch.setattr("sam_bench.training.loop.evaluate", looking)
    record = tiny_run(*RUN, "optimizer=sgd", "averaging=swa", "averaging.starts=[0.5]")
    training = at_the_end(folder, record, "optimizer=sgd", "averaging=swa", "averaging.starts=[0.5]")
    with training.averages.by_name["swa 0.5"].swapped():
        mean, _ = statistics_of_the_stem(training)
    torch.testing.assert_close(seen[-1], mean, rtol=0, atol=1e-6)
    assert not torch.allclose(seen[-2], mean, atol=1e-6)
