"""A family of masks along simple densities: the first that a sampler can choose from."""

from dataclasses import dataclass
from functools import lru_cache

from .densities import from_density, power_law
from .line_plan import Bool, LinePlan
from .patterns import Pattern

# (power, cutoff) of the densities
FAMILY = (
    *((power, 1.0) for power in (0.0, 0.5, 1.0, 2.0, 4.0, 6.0)),
    *((power, 0.75) for power in (0.5, 1.0, 2.0, 3.0)),
    *((power, 0.55) for power in (0.5, 1.0, 2.0)),
    (0.5, 0.4),
)
NEAR_BEST = FAMILY.index((1.0, 1.0))  # never far from the family's best on measured brains


@lru_cache(maxsize=64)  # all slices of a scan share a plan, and milliseconds count
def family(plan: LinePlan) -> tuple[Bool, ...]:
    """Return the masks (n,) along the densities of FAMILY."""
    return tuple(from_density(plan, power_law(plan, *member)) for member in FAMILY)


@dataclass(frozen=True, slots=True, kw_only=True)
class VettedMasks:
    """The family and, beside it, learned masks that were tried on many scans, for any plan."""

    patterns: tuple[Pattern, ...] = ()

    def __call__(self, plan: LinePlan) -> tuple[Bool, ...]:
        """Return all masks (n,) for a plan, the family's first."""
        return family(plan) + tuple(pattern.realise(plan) for pattern in self.patterns)
