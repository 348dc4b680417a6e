"""Random numbers of a method.

They depend on seed, step and part of the batch only, so a checkpoint need not save a generator's state.
"""

import hashlib

import torch

from sam_bench.optim.options import Option

SEED = Option("seed", int, "the seed of the draws, the same in all processes of a run", ge=0, lt=2**32)

#: Odd, so that it maps different seeds to different numbers; of 32 bits, all that torch's CPU generators use of a seed.
_MIXING = 2654435761


def generator_of_step(seed: int, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return the generator of a step's draws."""
    return torch.Generator(device).manual_seed((_MIXING * seed + step) % 2**32)


def generator_of_part(seed: int, step: int, part: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Return the generator of the draws for one part of a step's batch."""
    return torch.Generator(device).manual_seed(_hash(seed, step, part) % 2**32)


def uniform_of_step(seed: int, step: int) -> float:
    """Return a number from 0 to 1, for a decision of the host about a step."""
    return _hash(seed, step) / 2**64


def _hash(*numbers: int) -> int:
    """Return a 64-bit hash of the numbers."""
    return int.from_bytes(hashlib.blake2b(" ".join(map(str, numbers)).encode(), digest_size=8).digest())
