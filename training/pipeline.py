"""From data to table in one command, which does what is missing and nothing else.

    python -m training.pipeline --config training/configs/open.json
    python -m training.pipeline --config training/configs/open.json --plan
    python -m training.pipeline --config training/configs/open.json --until labels

`--plan` measures this machine on one scan of the study and prints what every step will take.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from training.study import scans, steps, steps_table
from training.study.plan import print_plan
from training.study.study import Study, read_study


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step: its name, what it makes, and how."""

    name: str
    makes: str
    run: Callable[[Study], None]


STEPS = (
    Step(name="scans", makes="cohorts of multi-coil k-space", run=scans.cohorts),
    Step(name="reconstructors", makes="MoDL and U-Net on mixed masks", run=steps.reconstructors),
    Step(name="population", makes="the best fixed masks, by ICD", run=steps.population_masks),
    Step(name="icd", makes="ICD masks of training scans", run=steps.icd_labels),
    Step(name="vetted", makes="the masks MNet-select chooses from", run=steps.vetted),
    Step(name="labels", makes="losses of all vetted masks", run=steps.select_labels),
    Step(name="select", makes="MNet-select, one per fold", run=steps.select),
    Step(name="icd-unet", makes="the U-Net on ICD masks", run=steps.icd_unet),
    Step(name="faithful", makes="the paper's MNet, and LOUPE", run=steps.faithful),
    Step(name="masks", makes="every sampler's masks", run=steps_table.mask_steps),
    Step(name="oracle", makes="ICD masks of test scans", run=steps_table.oracle),
    Step(name="post-training", makes="MoDL for every learned row", run=steps_table.post_training),
    Step(name="table", makes="table, figures and page", run=steps_table.table),
    Step(name="package", makes="the deployed weights", run=steps_table.package),
)


def run(study: Study, until: str = "") -> None:
    """Run the steps in order, up to and including `until`."""
    torch.set_num_threads(1)
    study.folder.mkdir(parents=True, exist_ok=True)
    for folder in ("weights", "runs", "masks"):
        (study.folder / folder).mkdir(exist_ok=True)
    for number, step in enumerate(STEPS, 1):
        started = time.monotonic()
        print(f"[{number}/{len(STEPS)}] {step.name}: {step.makes}", flush=True)
        step.run(study)
        print(f"    {(time.monotonic() - started) / 60:.1f} min", flush=True)
        if step.name == until:
            return


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, help="the study")
    parser.add_argument("--plan", action="store_true", help="print what would take how long")
    parser.add_argument("--until", choices=[step.name for step in STEPS], default="")
    options = parser.parse_args()
    study = read_study(options.config)
    if options.plan:
        print_plan(study)
    else:
        run(study, options.until)


if __name__ == "__main__":
    main()
