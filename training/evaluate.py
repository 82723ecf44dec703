"""Score samplers and reconstructors, and write the table with its figures.

The test scans of a study, after the row list in its `table.json` (see training/table/spec.py):

    python -m training.evaluate --study runs/open

Any fully sampled k-space files, fastMRI or MRD HDF5, with the packaged weights:

    python -m training.evaluate --data scan.h5 --acceleration 4 --acceleration 8 --json out.json

What a study has scored is kept; `--part 0/2` and `--part 1/2` score halves in two processes, and
a run without `--part` then only writes the table.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from training.real.results import read_found
from training.real.sections import summary
from training.table.evaluate_files import DEFAULT_SAMPLER, Files, evaluate_files
from training.table.jobs import Job, held_out_masks, jobs, read_checked, scan_numbers, subjects
from training.table.page import markdown, write_json, write_page
from training.table.scored import Scored
from training.table.scores import score_job
from training.table.sections import Section
from training.table.spec import Table, read_table
from training.table.study_figures import draw_study
from training.table.table import table


def score_study(
    spec: Table, study: Path, device: torch.device, part: tuple[int, int] = (0, 1)
) -> list[Scored]:
    """Score every row on every cohort, or part k of n of them; all masks are checked first."""
    mine = jobs(spec, study)[part[0] :: part[1]]
    for job in mine:
        read_checked(job)
    total = sum(len(scan_numbers(study, job.cohort.name)) for job in mine)
    with tqdm(total=total, unit="scan", desc="scoring", disable=None) as bar:
        return [_score(job, device, bar) for job in mine]


def _score(job: Job, device: torch.device, bar: "tqdm[Any]") -> Scored:
    bar.set_postfix_str(job.label)
    return Scored(
        entry=job.entry,
        cohort=job.cohort,
        scans=score_job(job, device, bar.update),
        subjects=subjects(job.study, job.cohort),
    )


def evaluate_study(spec: Table, study: Path, device: torch.device) -> dict[str, Any]:
    """Score what is missing and write `table/`: table.json, table.md, index.html and figures.

    Where the bench of real scans has written to `real/`, its rows stand first.
    """
    scored = score_study(spec, study, device)
    every = jobs(spec, study)
    found = table(spec, scored, held_out_masks(every))
    folder = study / "table"
    pictures = draw_study(spec, study, scored, folder, device)
    real = read_found(study / "real")
    write_all(folder, found, pictures, [] if real is None else summary(real))
    return found


def write_all(
    folder: Path,
    found: dict[str, Any],
    pictures: Sequence[tuple[Path, str]],
    before: Sequence[Section] = (),
) -> None:
    """Write table.json, table.md and index.html; pictures are files with their captions.

    `before` are sections that stand before those of the table.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "table.json", found)
    (folder / "table.md").write_text(markdown(found, before), encoding="utf-8")
    write_page(folder / "index.html", found, pictures, before)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    device = torch.device(options.device)
    try:
        if options.study is not None:
            spec = read_table(options.table or options.study / "table.json")
            if options.part != (0, 1):
                score_study(spec, options.study, device, options.part)
                return 0
            found = evaluate_study(spec, options.study, device)
            print(f"{options.study / 'table' / 'index.html'}")
        else:
            files = Files(
                paths=tuple(options.data),
                accelerations=tuple(options.acceleration or (4.0, 8.0)),
                n_slices=options.slices,
                n_seeds=options.seeds,
                sampler=options.sampler,
                reconstructor=options.reconstructor,
            )
            found = evaluate_files(files, device)
            print(markdown(found))
        if options.json is not None:
            write_json(options.json, found)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m training.evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--study", type=Path, help="folder of a study: scans, masks, weights")
    what.add_argument("--data", type=Path, nargs="+", metavar="FILE", help="k-space files")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the table there as well")
    parser.add_argument("--device", default="cpu", help="of the reconstructions (default: cpu)")
    study = parser.add_argument_group("with --study")
    study.add_argument("--table", type=Path, help="rows to compare (default: STUDY/table.json)")
    study.add_argument(
        "--part", type=_part, default=(0, 1), metavar="K/N", help="only score the K-th of N parts"
    )
    data = parser.add_argument_group("with --data")
    data.add_argument(
        "--acceleration", type=float, action="append", help="may be repeated (default: 4 and 8)"
    )
    data.add_argument("--slices", type=int, help="only so many central slices of every file")
    data.add_argument("--seeds", type=int, default=3, help="draws of random masks (default: 3)")
    data.add_argument("--sampler", default=DEFAULT_SAMPLER, help="weights; a path or packaged")
    data.add_argument("--reconstructor", default="modl", help="weights; a path or packaged")
    return parser


def _part(text: str) -> tuple[int, int]:
    first, _, number = text.partition("/")
    if not (first.isdigit() and number.isdigit() and int(first) < int(number)):
        raise argparse.ArgumentTypeError(f"{text!r}: expected K/N with K from 0 to N - 1")
    return int(first), int(number)


if __name__ == "__main__":
    sys.exit(main())
