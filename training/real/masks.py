"""The masks of a real scan by sampler, one per draw; oracles are left for scores to choose."""

from collections.abc import Mapping

import numpy as np

from mnet.masks.family import FAMILY, NEAR_BEST
from mnet.masks.line_plan import Bool
from mnet.sampler.choosing import EXPECTED, Choosing
from mnet.weight_files import load_weights
from training.masks.samplers import SIMPLE, network
from training.real.scans import RealScan

DEPLOYED = "mnet_select"
RANDOM = ("uniform_random", "variable_density")
ORACLES = ("family_oracle", "vetted_oracle")  # the best by NRMSE, which no scanner can know
Candidates = dict[str, Bool]  # masks (ky,) by what tells them apart


def read_sampler(weights: str = DEPLOYED) -> Choosing:
    """Read the sampler whose masks are called deployed; ValueError where it is of another kind."""
    model, card = load_weights(weights)
    if not isinstance(model, Choosing):
        kind = card["architecture"]["class"]
        raise ValueError(f"weights {weights} are a {kind}, expected {EXPECTED}")
    return model


def deployed_mask(scan: RealScan, model: Choosing) -> Bool:
    """Return the mask (ky,) that the deployed sampler sends."""
    return network(model)(scan.sample, np.random.default_rng(0))


def draws(scan: RealScan, model: Choosing, n_seeds: int = 3) -> dict[str, list[Bool]]:
    """Return the masks of every sampler; random ones draw `n_seeds` times, by slice and seed."""
    found = {
        DEPLOYED: [deployed_mask(scan, model)],
        "best_single": [model.population(scan.plan)],
        "family_1_1": [vetted(scan, model)[_member(FAMILY[NEAR_BEST])]],
    }
    for name, draw in SIMPLE.items():
        seeds = range(n_seeds if name in RANDOM else 1)
        found[name] = [
            draw(scan.sample, np.random.default_rng([seed, scan.slice])) for seed in seeds
        ]
    return found


def vetted(scan: RealScan, model: Choosing) -> Candidates:
    """Return the masks that the deployed sampler chooses from, the family's first."""
    names = [_member(member) for member in FAMILY]
    masks = model.vetted_masks(scan.plan)
    names += [f"vetted {i}" for i in range(1, len(masks) - len(names) + 1)]
    return dict(zip(names, masks, strict=True))


def oracle_candidates(scan: RealScan, model: Choosing) -> Mapping[str, Candidates]:
    """Return what every oracle chooses from."""
    every = vetted(scan, model)
    family = {name: every[name] for name in list(every)[: len(FAMILY)]}
    return dict(zip(ORACLES, (family, every), strict=True))


def _member(member: tuple[float, float]) -> str:
    power, cutoff = member
    return f"power {power:g}, cutoff {cutoff:g}"
