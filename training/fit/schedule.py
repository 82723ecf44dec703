"""Whose step it is in alternating training, and which of its scans it takes."""

from dataclasses import dataclass

import numpy as np
from torch import distributed

UNITS = ("step", "epoch", "batch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Cycles of some steps of the reconstructor and then some of the sampler.

    unit "step": scans drawn anew in every step. "epoch": each party goes through all of its scans
    in an order of its own, shuffled again every time, in chunks of `batch`. "batch": the same scans
    and the same bands of them in all steps of a cycle, as the original sources have it.
    """

    n_reconstructor: int
    n_sampler: int
    unit: str
    batch: int  # scans per step and process
    seed: int

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ValueError(f"unknown unit {self.unit!r}, expected one of {', '.join(UNITS)}")

    def party(self, step: int) -> str:
        """Return whose step it is."""
        place = step % (self.n_reconstructor + self.n_sampler)
        return "reconstructor" if place < self.n_reconstructor else "sampler"

    def generator(self, step: int, rng: np.random.Generator) -> np.random.Generator:
        """Return the generator of what a step draws: that of its cycle, where a batch stays."""
        if self.unit != "batch":
            return rng
        cycle = step // (self.n_reconstructor + self.n_sampler)
        return np.random.default_rng([self.seed, cycle, _process()[0]])

    def scans(self, step: int, n_scans: int, rng: np.random.Generator) -> list[int]:
        """Return the numbers of the scans that a step takes, of the `n_scans` of its party."""
        if self.unit != "epoch":
            return [int(n) for n in rng.integers(n_scans, size=self.batch)]
        cycle, place = divmod(step, self.n_reconstructor + self.n_sampler)
        is_sampler = self.party(step) == "sampler"
        before = (
            cycle * self.n_sampler + place - self.n_reconstructor
            if is_sampler
            else cycle * self.n_reconstructor + place
        )
        rank, n_processes = _process()
        numbers = []
        for i in range(self.batch):
            epoch, place = divmod((before * n_processes + rank) * self.batch + i, n_scans)
            order = np.random.default_rng([self.seed, epoch, is_sampler]).permutation(n_scans)
            numbers.append(int(order[place]))
        return numbers


def _process() -> tuple[int, int]:
    """Return the number of this process and how many there are."""
    if not distributed.is_initialized():
        return 0, 1
    return distributed.get_rank(), distributed.get_world_size()
