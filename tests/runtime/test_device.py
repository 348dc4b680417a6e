"""The precision that `auto` stands for on a CPU."""

import pytest
import torch

from sam_bench.runtime import device
from sam_bench.runtime.device import Hardware


@pytest.fixture
def cpu(monkeypatch):
    """A CPU with or without bf16 instructions, and the seconds that a step takes on it."""

    def make(seconds: dict[str, float], instructions: bool = True) -> None:
        monkeypatch.delenv("SAM_BENCH_CPU_PRECISION", raising=False)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions)
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
        monkeypatch.setattr(device, "_seconds_of_a_step", lambda: seconds)
        device._faster_precision.cache_clear()

    yield make
    device._faster_precision.cache_clear()


@pytest.mark.parametrize(
    ("fp32", "bf16", "instructions", "chosen"),
    [(1.0, 2.0, True, "fp32"), (1.05, 1.0, True, "fp32"), (2.0, 1.0, True, "bf16"), (2.0, 1.0, False, "fp32")],
)
def test_auto_is_the_precision_measured_faster(cpu, monkeypatch, fp32, bf16, instructions, chosen):
    cpu({"fp32": fp32, "bf16": bf16}, instructions)
    hardware = Hardware.choose("cpu", "auto")
    assert hardware.precision == chosen and hardware.reason
    monkeypatch.delenv("SAM_BENCH_CPU_PRECISION", raising=False)


@pytest.mark.parametrize("known", ["fp32", "bf16"])
def test_auto_is_what_the_parent_process_measured(cpu, monkeypatch, known):
    cpu({})
    monkeypatch.setenv("SAM_BENCH_CPU_PRECISION", known)
    assert Hardware.choose("cpu", "auto").precision == known


def test_several_processes_choose_alike(cpu, monkeypatch):
    cpu({"fp32": 2.0, "bf16": 1.0})
    place = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "x", "MASTER_PORT": "1"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    assert Hardware.choose("cpu", "auto").precision == "fp32"


def test_a_named_precision_is_not_measured(cpu):
    cpu({})
    assert Hardware.choose("cpu", "bf16") == Hardware(torch.device("cpu"), "bf16")


def test_measuring_leaves_the_random_numbers():
    before = torch.get_rng_state()
    seconds = device._seconds_of_a_step()
    assert torch.equal(before, torch.get_rng_state())
    assert set(seconds) == {"fp32", "bf16"} and all(0 < value < 10 for value in seconds.values())
