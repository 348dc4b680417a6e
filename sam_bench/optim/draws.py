"""Random numbers of a method. They depend on seed, step and part of the batch alone: nothing of them need be saved."""

import hashlib

import torch

from sam_bench.optim.options import Option

SEED = Option("seed", int, "of the draws, the same in all processes of a run", ge=0, lt=2**32)

_MIXING = 2654435761
"""Odd and of 32 bits, which is as much of a seed as torch's generators on the CPU take in."""


def generator_of_step(seed: int, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The generator of a step's draws."""
    return torch.Generator(device).manual_seed((_MIXING * seed + step) % 2**32)


def generator_of_part(seed: int, step: int, part: int, device: torch.device | str = "cpu") -> torch.Generator:
    """The generator of the draws for a part of a batch."""
    return torch.Generator(device).manual_seed(_hash(seed, step, part) % 2**32)


def uniform_of_step(seed: int, step: int) -> float:
    """A number from 0 to 1, for what the host decides about a step."""
    return _hash(seed, step) / 2**64


def _hash(*numbers: int) -> int:
    """A number of 64 bits."""
    return int.from_bytes(hashlib.blake2b(" ".join(map(str, numbers)).encode(), digest_size=8).digest())
