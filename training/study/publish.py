"""What of a study leaves its folder: the packaged weights, and the results that git keeps.

The folder itself is rebuilt rather than kept. What takes hours to make is kept as a manifest, the
sha256 of every file, so that a study that was made again or carried over can be compared.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from mnet.sampler.guard import Guard
from mnet.weight_files import read_card
from training.study.study import Study

RESULTS = (
    "table.json",
    "vetted.json",
    "population/*.npz",
    *("table/table.md", "table/curves.png"),
    *("table/masks-*.png", "table/differences-*.png"),
)
N_COLOURS = 64  # of a published figure, which is lines on white: a third of its size
GUARDED = ("mnet_select", "mnet_experts")  # samplers whose card gets the guard
TOLD = ("training", "n_scans", "validation", "licences", "attributions", "commit")  # of a guard
REAL = ("real/real.md",)  # where there are real scans; figures, no pictures
# cards are left out: they name the commit, and hold to their tensors by a sha256 of their own
MANIFESTED = (
    "weights/*.safetensors",
    "labels/**/*.npz",
    "runs/*/log.jsonl",
    "table/scores/*.json",
)


def package(study: Study) -> None:
    """Put the deployed weights where the gadgets load them from.

    MoDL is that of mixed masks, not one trained further on the sampler's: a scan may fall back, or
    be asked for a mask of its user's. Its card gets what the table found.
    """
    if study.package is None:
        return
    for name, source in (
        ("mnet_select", f"mnet_select@{study.deployed}"),
        ("mnet_experts", f"mnet_experts@{study.deployed}"),
        ("mnet", "mnet"),
        ("modl", "modl"),
    ):
        path = study.weights(source)
        shutil.copyfile(
            path.with_name(source + ".safetensors"), study.package / f"{name}.safetensors"
        )
        card = json.loads(path.with_name(source + ".json").read_text())
        if name in GUARDED:
            card["guard"] = deployed_guard(study)
        if name == "modl":
            card["validation"] = {
                "on mixed masks": card["validation"],
                "NRMSE on test scans, masks of MNet-select": deployed_figures(study),
            }
        (study.package / f"{name}.json").write_text(json.dumps(card, indent=2) + "\n")


def deployed_guard(study: Study) -> dict[str, Any]:
    """Return the guard of the deployed fold, with where its numbers come from."""
    made = read_card(str(study.weights(f"guard@{study.deployed}")))
    return {**Guard.from_json(made["guard"]).to_json(), "made": {key: made[key] for key in TOLD}}


def deployed_figures(study: Study) -> dict[str, float]:
    """Return the mean NRMSE of the deployed pair in the table, by cohort and acceleration."""
    rows = json.loads((study.folder / "table" / "table.json").read_text())["folds"]
    return {
        f"{row['cohorts'][0]}, {row['acceleration']:g}x": round(row["nrmse"], 4)
        for row in rows
        if row["sampler"] == "mnet_select"
        and row["reconstructor"] == "modl"
        and not row["post_trained"]
        and row["fold"] == study.deployed
    }


def publish(study: Study) -> None:
    """Copy table, figures and fixed masks to the study's published folder, with the manifest."""
    if study.published is None:
        return
    for path in _found(study.folder, RESULTS + REAL):
        target = study.published / path.relative_to(study.folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            Image.open(path).convert("RGB").quantize(N_COLOURS).save(target, optimize=True)
        else:
            shutil.copyfile(path, target)
    text = json.dumps(digests(study.folder), indent=1) + "\n"
    (study.published / "manifest.json").write_text(text)


def digests(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file of a study that a manifest tells, by its path in there."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in _found(folder, MANIFESTED)
    }


def read_manifest(study: Study) -> dict[str, str]:
    """Read the sha256 of the files that a study was published with.

    Raises
    ------
    ValueError
        If it publishes nothing, or nothing yet.
    """
    if study.published is None:
        raise ValueError(f"study {study.name} has no manifest: its configuration sets no published")
    path = study.published / "manifest.json"
    if not path.exists():
        raise ValueError(f"{path} is missing: run the study until its step publish")
    manifest: dict[str, str] = json.loads(path.read_text())
    return manifest


def differences(published: Mapping[str, str], made: Mapping[str, str]) -> list[str]:
    """Return what differs between two manifests, a line of text for every file."""
    lines = [
        f"{name}: {'differs' if name in made else 'is missing'}"
        for name, digest in published.items()
        if made.get(name) != digest
    ]
    return lines + [f"{name}: is not in the manifest" for name in made if name not in published]


def _found(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return sorted(path for pattern in patterns for path in folder.glob(pattern))
