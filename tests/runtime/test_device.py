"""Tests of the precision that `auto` chooses on a CPU."""

import pytest
import torch

from sam_bench.runtime import device
from sam_bench.runtime.device import Hardware


@pytest.fixture
def fake_cpu(monkeypatch):
    """Return a function that fakes a CPU's bf16 instructions and its seconds of a step, by precision."""

    def fake(seconds: dict[str, float], instructions: bool = True) -> None:
        monkeypatch.delenv("SAM_BENCH_CPU_PRECISION", raising=False)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        monkeypatch.setattr(device, "_seconds_of_a_step", lambda: seconds)
        device._faster_precision.cache_clear()

    yield fake
    device._faster_precision.cache_clear()


@pytest.mark.parametrize(
    ("fp32", "bf16", "instructions", "chosen"),
    [(1.0, 2.0, True, "fp32"), (1.05, 1.0, True, "fp32"), (2.0, 1.0, True, "bf16"), (2.0, 1.0, False, "fp32")],
)
def test_auto_is_faster_precision(fake_cpu, monkeypatch, fp32, bf16, instructions, chosen):
    fake_cpu({"fp32": fp32, "bf16": bf16}, instructions)
    hardware = Hardware.choose("cpu", "auto")
    assert hardware.precision == chosen and hardware.reason
    monkeypatch.delenv("SAM_BENCH_CPU_PRECISION", raising=False)


@pytest.mark.parametrize("measured", ["fp32", "bf16"])
def test_auto_is_what_parent_process_measured(fake_cpu, monkeypatch, measured):
    fake_cpu({})
    monkeypatch.setenv("SAM_BENCH_CPU_PRECISION", measured)
    assert Hardware.choose("cpu", "auto").precision == measured


def test_auto_with_several_processes_is_fp32(fake_cpu, monkeypatch):
    fake_cpu({"fp32": 2.0, "bf16": 1.0})
    variables = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": "1"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Hardware.choose("cpu", "auto").precision == "fp32"


def test_named_precision_is_not_measured(fake_cpu):
    fake_cpu({})
    assert Hardware.choose("cpu", "bf16") == Hardware(torch.device("cpu"), "bf16")


def test_measuring_keeps_random_state():
    before = torch.get_rng_state()
    seconds = device._seconds_of_a_step()
    assert torch.equal(before, torch.get_rng_state())
    assert set(seconds) == {"fp32", "bf16"} and all(0 < value < 10 for value in seconds.values())
