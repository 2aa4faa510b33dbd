"""Addressed randomness: a draw is a pure function of (seed, purpose, step, index).

Nothing is consumed from a shared stream, so resuming at a step, changing the number of loader workers or
the number of ranks cannot change a single draw. The address is hashed (BLAKE2b) into the key of a
counter-based generator (Philox).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

_WORDS_PER_BLOCK = 4  # Philox-4x64 yields four 64-bit words for each counter value


def key(seed: int, purpose: str, *address: int) -> int:
    """A 128-bit hash of the address; different addresses never share a stream."""
    escaped = purpose.replace(":", "::")  # or ("a:2",) and ("a", 2) would be one address
    text = ":".join((str(int(seed)), escaped, *(str(int(part)) for part in address)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def generator(seed: int, purpose: str, *address: int) -> np.random.Generator:
    """A numpy generator that belongs to this address alone."""
    return np.random.Generator(np.random.Philox(key=key(seed, purpose, *address)))


def torch_generator(seed: int, purpose: str, *address: int, device: str = "cpu") -> torch.Generator:
    """A torch generator for this address. On the CPU torch looks at 32 bits of a seed, so two may coincide."""
    state = key(seed, purpose, *address) & ((1 << 63) - 1)
    return torch.Generator(device=device).manual_seed(state)


@contextmanager
def initial_weights(seed: int) -> Iterator[None]:
    """Within it, torch's global generator, which layers initialise themselves from, belongs to this seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(seed, "init") % 2**63)
        yield


def uniforms(seed: int, purpose: str, step: int, first: int, count: int, width: int) -> np.ndarray:
    """Rows `first` to `first + count` of the endless table of uniform numbers of this (seed, purpose, step).

    Row i is the same whatever slice it is read in, so a rank that holds images 64 to 128 of the global
    batch draws what one process would have drawn for them. Returns (count, width) float64 in [0, 1).
    """
    blocks = -(-width // _WORDS_PER_BLOCK)
    philox = np.random.Philox(key=key(seed, purpose, step), counter=first * blocks)
    rows = np.random.Generator(philox).random((count, blocks * _WORDS_PER_BLOCK))
    return rows[:, :width]
