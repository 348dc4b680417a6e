"""Tests of run ids: which settings change them, and which do not."""

import pytest
import torch

from sam_bench.cli import compose
from sam_bench.runs.spec import RunSpec
from sam_bench.runtime.device import Hardware
from tests.conftest import TINY


def run_id(*overrides: str, device: str = "cpu", precision: str = "fp32") -> str:
    """Return the id of a run with these settings."""
    config = compose.compose([*TINY, "model=resnet8", *overrides])
    return RunSpec.on(config, Hardware(torch.device(device), precision)).run_id


#: Settings that change what a run computes.
EFFECTIVE = [
    "seed=1",
    "model=resnet20",
    "data.flip=false",
    "data.padding=reflect",
    "data.padding_pixels=2",
    "data.alternate_flips=true",
    "data.cutout_size=12",
    "data.cutout_probability=1.0",
    "data.cutout_inside=true",
    "optimizer=gsam",
    "optimizer.rho=0.1",
    "optimizer.batchnorm=both",
    "optimizer.m=2",
    "optimizer.clip_norm=1.0",
    "optimizer.start_at=0.5",
    "optimizer.base.lr=0.2",
    "optimizer.base.norm_bias_lr_factor=64.0",
    "schedule=cosine",
    "schedule=triangular",
    "schedule.warmup_start=0.25",
    "averaging=swa",
    "averaging=lookahead",
    "trainer.epochs=3",
    "trainer.smoothing_over=all",
    "trainer.max_skipped=1",
    "trainer.micro_batch_size=2",
    "trainer.drop_last=true",
    "trainer.loss_reduction=sum",
]


@pytest.mark.parametrize("override", EFFECTIVE)
def test_setting_with_effect_changes_run_id(override):
    assert run_id(override) != run_id()


#: Settings of files, of time and of what is shown, and settings with the value that they have by default.
INEFFECTIVE = [
    "paths.runs=elsewhere",
    "paths.results=elsewhere",
    "data.root=elsewhere",
    "data.timeout=5",
    "data.padding=zeros",
    "logger=wandb",
    "optimizer.start_at=0",
    "optimizer.base.norm_bias_lr_factor=1.0",
    "schedule.warmup_start=0",
    "trainer.progress=bar",
    "trainer.rerun=true",
    "trainer.max_minutes=5",
    "trainer.checkpoint_every=3",
    "trainer.checkpoint_minutes=null",
    "trainer.deterministic=true",
    "trainer.engine=eager",
    "trainer.drop_last=false",
    "trainer.test_time_augmentation=true",
]


@pytest.mark.parametrize("override", INEFFECTIVE)
def test_setting_without_effect_keeps_run_id(override):
    assert run_id(override) == run_id()


def test_run_id_depends_on_device_and_precision():
    deterministic = run_id("trainer.deterministic=true", device="cuda")
    assert len({run_id(), run_id(device="cuda"), run_id(precision="bf16"), deterministic}) == 4
