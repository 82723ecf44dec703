"""Choose experts and the gate before them, from labels alone: no network is trained.

    python -m training.fit.train_experts --config FILE

Labels say what every vetted mask loses on a scan, and what the pre-scan tells of it. For every
acceleration a small tree is grown on training cohorts (training.fit.expert_tree); validation
cohorts, measured scans among them, decide with what is held out how deep it is and where it takes
its fallback. The trees stand in the card, with what each leaf gains.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mnet.sampler.experts import MNetExperts, Node, nodes
from mnet.weight_files import read_card, save_weights
from training.config import read_config, told
from training.fit.bound import CONFIDENCE, upper_bound
from training.fit.card import provenance
from training.fit.expert_tree import Float, Scans, chosen_losses, held_out_losses, learn
from training.masks.labels import BLOCK, read_labels


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """One run."""

    labels: str  # folder of label files by cohort
    patterns: str  # JSON file of the vetted masks beside the family
    cohorts: tuple[str, ...]
    validation: tuple[str, ...]
    parts: tuple[str, ...] = ()
    reconstructor: str  # weights that the labels were made with
    weights: str  # where they go
    depth: int = 3
    min_leaf: int = 12
    n_least: int = 24  # training scans of an acceleration that has a tree
    confidence: float = CONFIDENCE  # of the intervals that a split and an expert must pass


def read_scans(folder: Path, cohorts: Sequence[str], *, apart: bool) -> dict[float, Scans]:
    """Read the labels of cohorts by acceleration.

    Groups that are left out together are cohorts; `apart`, blocks of scans, where cohorts are too
    few to leave any out.
    """
    tables: dict[float, list[tuple[Any, ...]]] = {}
    for cohort in cohorts:
        found = read_labels(folder / cohort)
        for i, number in enumerate(found.masks):
            arrays = {key: values[i] for key, values in found.arrays.items()}
            group = f"{cohort} {number // BLOCK}" if apart else cohort
            row = arrays["prescan"], arrays["dictionary_loss"], group
            tables.setdefault(float(arrays["acceleration"]), []).append(row)
    return {acceleration: _scans(rows) for acceleration, rows in sorted(tables.items())}


def _scans(rows: list[tuple[Any, ...]]) -> Scans:
    numbers, losses, groups = (np.array(column) for column in zip(*rows, strict=True))
    losses = losses.astype(float)
    return Scans(
        numbers=numbers.astype(float),
        losses=losses / losses.min(1, keepdims=True) - 1,
        groups=groups,
    )


def train(config: Config) -> dict[str, Any]:
    """Run; returns the figures of every acceleration."""
    folder = Path(config.labels)
    training = read_scans(folder, config.cohorts, apart=len(config.cohorts) < 4)
    validation = {cohort: read_scans(folder, [cohort], apart=False) for cohort in config.validation}
    trees: list[dict[str, Any]] = []
    figures: dict[str, Any] = {}
    for acceleration, scans in training.items():
        if len(scans) < config.n_least:
            continue
        others = {c: by[acceleration] for c, by in validation.items() if acceleration in by}
        tree = learn(
            scans,
            [*others.values()],
            depth=config.depth,
            min_leaf=config.min_leaf,
            confidence=config.confidence,
        )
        trees.append({"acceleration": acceleration, "tree": tree})
        figures[f"{acceleration:g}x"] = _figures(tree, scans, others, config)
    if not trees:
        raise ValueError(f"no acceleration has {config.n_least} labels in {config.cohorts}")
    patterns = json.loads(Path(config.patterns).read_text())
    model = MNetExperts(patterns, trees)
    card = {
        "training": told(config),
        "n_scans": sum(len(scans) for scans in training.values()),
        "vetted": model.names,
        "validation": figures,
        "reconstructor": read_card(config.reconstructor)["sha256"],
        **provenance(config.parts),
    }
    save_weights(model, Path(config.weights), card)
    return figures


def _figures(
    tree: Node, scans: Scans, others: Mapping[str, Scans], config: Config
) -> dict[str, Any]:
    """Compare with the best mask for all scans, in percent of the error; cohorts held out alone."""
    single = int(scans.losses.mean(0).argmin())
    asked = max(_depth(node) for node in nodes(tree))
    cohorts: dict[str, tuple[Float, Scans]] = {}
    if len(np.unique(scans.groups)) > 1:  # one subject leaves nothing to grow a tree from
        grown = held_out_losses(scans, asked, config.min_leaf)
        cohorts["training, held out"] = grown, scans
    cohorts |= {name: (chosen_losses(tree, other), other) for name, other in others.items()}
    found: dict[str, Any] = {"best single": single, "depth": asked}
    for name, (losses, of) in cohorts.items():
        fixed = of.losses[:, single]
        mean, bound = upper_bound([(1 + losses) / (1 + fixed) - 1], config.confidence)
        found[name] = {
            "experts_percent": round(100 * mean, 2),
            "at_worst_percent": round(100 * bound, 2) if np.isfinite(bound) else None,
            "best_vetted_percent": round(100 * float((1 / (1 + fixed) - 1).mean()), 2),
            "n_scans": len(of),
        }
    return found


def _depth(node: Node) -> int:
    return 1 + max(_depth(node[side]) for side in ("below", "above")) if "feature" in node else 0


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    print(json.dumps(train(read_config(Config, parser.parse_args().config)), indent=1))


if __name__ == "__main__":
    main()
