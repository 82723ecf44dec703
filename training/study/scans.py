"""The scans of a study: simulated from images, or read from k-space files; what is there stays."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from training.data import cohort_index, corpus, fastmri
from training.data.phantoms import write_phantoms
from training.data.sources import subjects
from training.study.study import MEASURED, Study


def cohorts(study: Study) -> None:
    """Draw the scans, or read them from k-space files."""
    for name, writing in writers(study).items():
        n = None if name == MEASURED else study.n_scans(name)
        for _ in tqdm(writing, name, n, leave=False):
            pass


def writers(study: Study) -> dict[str, Iterator[Path]]:
    """Return what writes the scans of every cohort that are missing, one after the other.

    Raises
    ------
    ValueError
        If files are unfit or too few, or a cohort is there but of other settings.
    """
    drawn: dict[str, Iterator[Path]] = {}
    if study.measured:
        drawn[MEASURED] = fastmri.write_cohort(
            study.scans(MEASURED),
            [Path(file) for file in study.measured],
            study.all_accelerations,
            margins=(0, 0),
            paired=True,
            need_header=False,
        )
    if study.images is not None:
        write_phantoms(study.images, study.phantoms)
        for name, cohort in study.cohorts.items():
            # without what is empty: a cohort of before there was such a setting is still the same
            settings = {k: v for k, v in asdict(cohort).items() if k != "n" and v != ()}
            _claim(study.scans(name), settings)
            parts = [corpus.part_of(cohort, number) for number in range(cohort.n)]
            cohort_index.name_subjects(
                study.scans(name), [", ".join(subjects([part])) for part in parts]
            )
            drawn[name] = corpus.write(study.scans(name), cohort, study.images)
        return drawn
    files = sorted(study.kspace.glob("*.h5"))
    if not files:
        raise ValueError(f"study {study.name}: no k-space files *.h5 in {study.kspace}")
    parts = fastmri.split(files, study.split)
    return drawn | {
        name: fastmri.write_cohort(
            study.scans(name),
            [path for part in cohort.parts for path in parts[part]],
            cohort.accelerations,
            margins=cohort.margins,
            step=cohort.step,
            paired=cohort.paired,
        )
        for name, cohort in study.cohorts.items()
    }


def _claim(folder: Path, settings: Mapping[str, Any]) -> None:
    """Keep the settings that scans are drawn with beside them; more may be drawn with the same."""
    path = folder / "settings.json"
    text = json.dumps(settings, indent=1) + "\n"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    elif path.read_text() != text:
        raise ValueError(f"{folder} holds scans of other settings, see {path}: not changed")
