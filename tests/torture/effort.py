"""How hard to try, and what came of it."""

import random
import time
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How much of everything: the full run takes hours, the short one seconds."""

    short: bool
    seed: int = 1

    def times(self, full: int, short: int) -> int:
        """Return how often something is done."""
        return short if self.short else full

    def random(self, *words: object) -> random.Random:
        """Return draws that depend on the seed and on what they are for, and on nothing else."""
        return random.Random(f"{self.seed} {words}")


@dataclass(slots=True, kw_only=True)
class Outcome:
    """One thing that was tried many times."""

    what: str
    n: int = 0
    faults: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def fault(self, text: str) -> None:
        """Note what must not have happened."""
        self.faults.append(text)

    def __str__(self) -> str:
        figures = ", ".join(f"{name} {value:g}" for name, value in self.figures.items())
        state = f"{len(self.faults)} FAULTS" if self.faults else "ok"
        head = f"{self.what}: {self.n} tried in {time.monotonic() - self.began:.1f} s, {state}"
        return "\n    ".join([f"{head} {figures}".rstrip(), *self.faults[:10]])
