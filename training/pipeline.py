"""From data to table in one command, which does what is missing and nothing else.

    python -m training.pipeline --config training/configs/open.json
    python -m training.pipeline --config training/configs/open.json --plan
    python -m training.pipeline --config training/configs/open.json --until labels
    python -m training.pipeline --config training/configs/open.json --verify

`--plan` measures this machine on one scan of the study and prints what every step will take.
`--verify` compares what is there with the manifest of what was published. Another machine rounds
otherwise: there weights, and all that follows from them, differ in their last digits.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from training.study import fixed_masks, labelling, networks, publish, results, sampler_masks, scans
from training.study.forecast import print_forecast
from training.study.study import Study, read_study


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step: its name, what it makes, and how."""

    name: str
    makes: str
    run: Callable[[Study], None]


STEPS = (
    Step(name="scans", makes="cohorts of multi-coil k-space", run=scans.cohorts),
    Step(name="reconstructors", makes="MoDL and U-Net on mixed masks", run=networks.reconstructors),
    Step(name="population", makes="the best fixed masks, by ICD", run=fixed_masks.population_masks),
    Step(name="icd", makes="ICD masks of training scans", run=labelling.icd_labels),
    Step(name="vetted", makes="the masks that samplers choose from", run=labelling.vetted),
    Step(name="labels", makes="losses of all vetted masks", run=labelling.select_labels),
    Step(name="select", makes="MNet-select, one per fold", run=networks.select),
    Step(name="experts", makes="experts and their gate, one per fold", run=networks.experts),
    Step(name="guard", makes="when samplers take their fallback", run=networks.guard),
    Step(name="icd-unet", makes="the U-Net on ICD masks", run=networks.icd_unet),
    Step(name="faithful", makes="the paper's MNet, and LOUPE", run=networks.faithful),
    Step(name="masks", makes="every sampler's masks", run=sampler_masks.mask_steps),
    Step(name="oracle", makes="ICD masks of test scans", run=labelling.oracle),
    Step(name="post-training", makes="MoDL for every learned row", run=networks.post_training),
    Step(name="table", makes="table, figures and page", run=results.table),
    Step(name="package", makes="the deployed weights", run=publish.package),
    Step(name="publish", makes="the results that are kept", run=publish.publish),
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


def verify(study: Study) -> bool:
    """Print how the files that are there differ from those published; says whether none does."""
    published = publish.read_manifest(study)
    differing = publish.differences(published, publish.digests(study.folder))
    print("\n".join([*differing, f"{len(differing)} of {len(published)} files differ"]))
    return not differing


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, required=True, help="the study")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--plan", action="store_true", help="print what would take how long")
    what.add_argument("--verify", action="store_true", help="compare with what was published")
    what.add_argument("--until", choices=[step.name for step in STEPS], default="")
    options = parser.parse_args(arguments)
    study = read_study(options.config)
    if options.verify:
        return int(not verify(study))
    if options.plan:
        print_forecast(study)
    else:
        run(study, options.until)
    return 0


if __name__ == "__main__":
    sys.exit(main())
