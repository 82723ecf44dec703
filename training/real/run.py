"""The whole bench: every file through every part, and what was found as one record."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnet.masks.line_plan import Bool
from training.real import bart
from training.real.bench import Player
from training.real.inserted import chosen_calls, insert, survival
from training.real.invariances import TARGET, changes
from training.real.masks import deployed_mask
from training.real.means import is_phantom, means
from training.real.methods import BART_WEIGHTS, SIGPY_WEIGHTS, Method, Result, reconstruct
from training.real.objects import CONTRASTS, KINDS, Kind
from training.real.pictures import Picture, draw_inserted, draw_methods
from training.real.scans import RealScan, about, middle, read_scans
from training.real.scores import FIGURES

log = logging.getLogger(__name__)

ROWS = ("rows", "invariances", "inserted", "without_room")
PARTS = ("table", "invariances", "inserted")
INVARIANT = ("modl", "cg_sense")  # whose invariances are measured
SMALL = ("modl", "cg_sense", "l1_wavelet")  # what small things are reconstructed by
SHOWN = Kind(shape="disc", size=4), max(CONTRASTS)  # in the picture
INSERTED = ("recovered", "lowest", "false", "cnr")
OF_INSERTED = ("acceleration", "shape", "size", "contrast", "method")


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What to run and where pictures go."""

    player: Player
    weights: str  # of MoDL, for the page
    accelerations: tuple[float, ...] = (4.0, 8.0)
    n_slices: int | None = None
    parts: Sequence[str] = PARTS
    kinds: Sequence[Kind] = KINDS
    contrasts: Sequence[float] = CONTRASTS
    pictures: Path | None = None

    def run(self, files: Sequence[Path]) -> tuple[dict[str, Any], list[Picture]]:
        """Return what was found, ready for JSON, and the pictures.

        A file that is damaged or not fully sampled is left out, and `refused` says why.
        """
        found: dict[str, Any] = {key: [] for key in ("files", "refused", *ROWS)}
        pictures: list[Picture] = []
        for path in files:
            rows: dict[str, list[Any]] = {key: [] for key in ROWS}
            try:
                entry = about(path)
                drawn = [
                    self._scan(scan, entry, rows)
                    for scan in read_scans(path, self.accelerations, self.n_slices)
                ]
            except ValueError as error:
                log.error("%s", error)
                found["refused"].append({"file": path.name, "why": str(error)})
                continue
            found["files"].append(entry)
            for key in ROWS:
                found[key] += rows[key]
            pictures += [picture for group in drawn for picture in group]
        return found | self._closing(found), pictures

    def _scan(
        self, scan: RealScan, entry: dict[str, Any], rows: dict[str, list[Any]]
    ) -> list[Picture]:
        """Add the rows of a scan; return its pictures, where it is the middle of its file."""
        log.info("%s, slice %d, %gx", scan.file, scan.slice, scan.sample.acceleration)
        drawn = self._drawn(scan, entry)
        pictures: list[Picture] = []
        results = self.player.images(scan)
        if "table" in self.parts:
            rows["rows"] += self.player.play(scan)
            pictures += self._images(scan, results) if drawn else []
        mask = deployed_mask(scan, self.player.sampler)
        if "invariances" in self.parts:
            rows["invariances"] += changes(scan, mask, self._methods(INVARIANT))
        if "inserted" in self.parts and not is_phantom(scan.subject):
            pictures += self._inserted(scan, mask, results, rows, drawn=drawn)
        return pictures

    def _drawn(self, scan: RealScan, entry: dict[str, Any]) -> bool:
        return self.pictures is not None and scan.slice in middle(entry["n_slices"], 1)

    def _images(self, scan: RealScan, results: dict[str, Result]) -> list[Picture]:
        return [] if self.pictures is None else [draw_methods(self.pictures, scan, results)]

    def _inserted(
        self,
        scan: RealScan,
        mask: Bool,
        results: dict[str, Result],
        rows: dict[str, list[Any]],
        *,
        drawn: bool,
    ) -> list[Picture]:
        settings = {name: result.setting for name, result in results.items()}
        calls = chosen_calls(self._methods(SMALL), settings)
        found, without_room = survival(scan, mask, calls, self.kinds, self.contrasts)
        rows["inserted"] += found
        rows["without_room"] += without_room
        kind, contrast = SHOWN
        if not drawn or self.pictures is None or kind not in self.kinds or without_room:
            return []
        inserted = insert(scan, kind, contrast)
        truth = inserted.without.encoded_reference, inserted.within.encoded_reference
        images = {
            name: (results[name].encoded, reconstruct(call, inserted.within, mask))
            for name, call in calls.items()
        }
        words = f"{kind.shape}s of {kind.size} pixels, {100 * contrast:g} % brighter or darker"
        return [
            draw_inserted(self.pictures, inserted.without, truth, images, inserted.window, words)
        ]

    def _methods(self, names: Sequence[str]) -> list[Method]:
        return [method for method in self.player.methods if method.name in names]

    def _closing(self, found: dict[str, Any]) -> dict[str, Any]:
        """Return means, and what the page has to say of how it was made."""
        version = bart.version()
        left_out = [] if version else ["BART is not installed and left out."]
        left_out += [f"Left out: {entry['why']}." for entry in found["refused"]]
        left_out += [f"Not inserted: {words}." for words in found["without_room"]]
        wavelets = [f"sigpy {_list(SIGPY_WEIGHTS)}"]
        wavelets += [f"BART {version} {_list(BART_WEIGHTS)}"] if version else []
        return {
            "means": means(found["rows"], ("acceleration", "sampler", "method"), FIGURES),
            "inserted_means": means(found["inserted"], OF_INSERTED, INSERTED),
            "target": TARGET,
            "weights": self.weights,
            "wavelet_weights": wavelets,
            "left_out": left_out,
        }


def _list(weights: Sequence[float]) -> str:
    return " ".join(f"{weight:g}" for weight in weights)
