"""The speed of maskings is counted over real draws."""

from __future__ import annotations

from dataclasses import dataclass, field

from openjepa.benchmark.masks import images_per_second
from openjepa.masking import Grid, Masking, Masks, Random


@dataclass(frozen=True)
class Counting(Masking):
    """Random masks that remember the calls."""

    calls: list[tuple[int, int]] = field(default_factory=list)

    def mistakes(self, grid: Grid) -> list[str]:
        return []

    def sample(self, grid: Grid, *, seed: int, step: int, first: int, count: int) -> Masks:
        self.calls.append((step, count))
        return Random().sample(grid, seed=seed, step=step, first=first, count=count)


def test_every_timed_batch_is_another_one():
    masking = Counting()
    assert images_per_second(masking, (4, 4), batch_size=8, seconds=0.01) > 0
    assert masking.calls == [(step, 8) for step in range(len(masking.calls))]
    assert len(masking.calls) >= 2
