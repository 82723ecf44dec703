"""The population mask: coordinate descent on one mask for many scans.

    python -m training.masks.population --config FILE

The scans are of one stratum (mnet.masks.strata) and of many matrix sizes; the mask is one of a
reference plan that every scan tries as a pattern (training.masks.varied). It minimises the mean of
losses relative to the best family member's on each scan. A line is taken out, a few scans, drawn
anew for every line, say by their gradients which rows may replace it and try the best of those; the
winner is confirmed on all scans and accepted if their mean is strictly lower. Lines that are missed
least come first, passes go on until one improves the mean by less than 0.2 %, and the whole is done
from several starts. The state is on disk after every line, and all that is random follows from the
seed and the place in the search, so that a stopped search ends as an uninterrupted one.
"""

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from mnet.masks.family import family
from mnet.masks.line_plan import Bool, LinePlan
from mnet.masks.strata import Channels, Stratum
from mnet.weight_files import load_weights
from training.config import read_config, told
from training.data.corpus import Sample
from training.data.mask_file import read_masks, settings_digest, write_masks
from training.masks.icd import ENOUGH, GRADIENT_COST, Float, Loss, line_gradient, losses_of, moved
from training.masks.labels import read_scan, scan_loss
from training.masks.varied import on_reference


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """How a population mask is searched."""

    n_screen: int = 10  # scans that rank and screen
    shortlist: int = 6  # rows tried for a line
    n_passes: int = 2
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Found:
    """The end of one descent."""

    mask: Bool
    losses: Float  # (scans,)
    start_loss: float  # mean of all scans
    n_evaluations: int  # of single scans

    @property
    def loss(self) -> float:
        """The mean loss of all scans."""
        return float(self.losses.mean())


@dataclass(slots=True, kw_only=True)
class _State:
    """Where a search stands, in JSON's types."""

    digest: str
    ends: list[dict[str, Any]] = field(default_factory=list)
    mask: list[int] | None = None  # rows of the present mask; None before a start is evaluated
    losses: list[float] = field(default_factory=list)
    start_loss: float = 0.0
    pass_loss: float = 0.0  # mean at the start of the pass
    n_passes: int = 0
    n_lines: int = 0  # taken so far, in all passes
    queue: list[int] = field(default_factory=list)  # lines that the pass still takes
    n_evaluations: int = 0


def population(
    losses: Sequence[Loss],
    plan: LinePlan,
    starts: Sequence[Bool],
    search: Search,
    *,
    state: Path | None = None,
    about: Mapping[str, Any] | None = None,
    report: Callable[[str], None] | None = None,
) -> list[Found]:
    """Return where the descents from the starts (ky,) end, in the order of the starts.

    `about` says in JSON's types what the losses are: a state of other losses is refused. `report`
    gets a line of text per line of the mask.

    Raises
    ------
    ValueError
        If `state` is of another search, or a start is not a mask of the plan.
    """
    for start in starts:
        if start.sum() != plan.n_lines or np.any(plan.calibration & ~start):
            raise ValueError(f"a start of {start.sum()} lines, expected a mask of {plan.n_lines}")
    now = _restore(state, _digest(losses, plan, starts, search, about))
    while len(now.ends) < len(starts):
        _step(now, losses, plan, starts, search)
        if state:
            _save(state, now)
        if report:
            report(_told(now, len(starts)))
    return [_found(end, plan) for end in now.ends]


def best_first(
    losses: Sequence[Loss], members: Sequence[Bool], n_scans: int, seed: int = 0
) -> list[Bool]:
    """Order masks by their mean loss on `n_scans` of the scans."""
    scans = np.random.default_rng(seed).permutation(len(losses))[:n_scans]
    table = np.array([losses_of(losses[scan], [*members], 8) for scan in scans])
    return [members[i] for i in np.argsort(table.mean(0), kind="stable")]


def perturbed(mask: Bool, plan: LinePlan, n: int, rng: np.random.Generator) -> Bool:
    """Move `n` random lines of a mask to random free rows."""
    taken, free = np.flatnonzero(mask & plan.movable), np.flatnonzero(~mask & plan.movable)
    n = min(n, taken.size, free.size)
    result = mask.copy()
    result[rng.choice(taken, n, replace=False)] = False
    result[rng.choice(free, n, replace=False)] = True
    return result


def _step(
    now: _State, losses: Sequence[Loss], plan: LinePlan, starts: Sequence[Bool], search: Search
) -> None:
    """Evaluate a start, begin or end a pass, or take one line."""
    if now.mask is None:
        start = starts[len(now.ends)]
        values = _evaluate(now, losses, start[None], range(len(losses)))[:, 0]
        now.mask, now.losses = np.flatnonzero(start).tolist(), values.tolist()
        now.start_loss = now.pass_loss = float(values.mean())
    elif now.queue:
        _take(now, losses, plan, search)
    else:
        loss = float(np.mean(now.losses))
        idle = now.n_passes > 0 and loss > (1 - ENOUGH) * now.pass_loss
        if idle or now.n_passes == search.n_passes:
            end = {key: getattr(now, key) for key in ("mask", "losses", "start_loss")}
            now.ends.append(end | {"n_evaluations": now.n_evaluations})
            now.mask, now.losses, now.n_passes = None, [], 0
            now.n_lines = now.n_evaluations = 0
        else:
            mask = _bool(now.mask, plan)
            slope = _mean_slope(now, losses, mask, _subset(now, losses, search))
            rows = np.flatnonzero(mask & plan.movable)
            now.queue = rows[np.argsort(-slope[rows], kind="stable")].tolist()
            now.pass_loss, now.n_passes = loss, now.n_passes + 1


def _take(now: _State, losses: Sequence[Loss], plan: LinePlan, search: Search) -> None:
    """Take the next line of the queue: move it to where all scans are better, or leave it."""
    line, now.queue = now.queue[0], now.queue[1:]
    now.n_lines += 1
    mask = _bool(now.mask, plan)
    few = _subset(now, losses, search)
    removed = mask.copy()
    removed[line] = False
    free = np.flatnonzero(~mask & plan.movable)
    slope = _mean_slope(now, losses, removed, few)[free]
    targets = free[np.argsort(slope, kind="stable")[: search.shortlist]]
    if not targets.size:
        return
    candidates = moved(mask, line, targets)
    screened = _evaluate(now, losses, candidates, few)
    known = np.array(now.losses)
    winner = int(screened.mean(0).argmin())
    if screened[:, winner].mean() >= known[few].mean():
        return
    values = np.empty(len(losses))
    values[few] = screened[:, winner]
    rest = np.setdiff1d(np.arange(len(losses)), few)
    values[rest] = _evaluate(now, losses, candidates[winner : winner + 1], rest)[:, 0]
    if values.mean() < known.mean():
        now.mask, now.losses = np.flatnonzero(candidates[winner]).tolist(), values.tolist()


def _subset(now: _State, losses: Sequence[Loss], search: Search) -> NDArray[np.intp]:
    rng = np.random.default_rng([search.seed, len(now.ends), now.n_passes, now.n_lines])
    return rng.choice(len(losses), min(search.n_screen, len(losses)), replace=False)


def _mean_slope(now: _State, losses: Sequence[Loss], mask: Bool, scans: NDArray[np.intp]) -> Float:
    now.n_evaluations += GRADIENT_COST * len(scans)
    slope: Float = np.mean([line_gradient(losses[scan], mask) for scan in scans], axis=0)
    return slope


def _evaluate(
    now: _State, losses: Sequence[Loss], masks: Bool, scans: NDArray[np.intp] | range
) -> Float:
    """Return losses (scans, masks)."""
    now.n_evaluations += len(scans) * len(masks)
    return np.array([losses_of(losses[s], masks, 8) for s in scans]).reshape(-1, len(masks))


def _bool(rows: list[int] | None, plan: LinePlan) -> Bool:
    mask = np.zeros(plan.acquirable.size, dtype=bool)
    mask[rows] = True
    return mask


def _found(end: dict[str, Any], plan: LinePlan) -> Found:
    values = end | {"mask": _bool(end["mask"], plan), "losses": np.array(end["losses"])}
    return Found(**values)


def _told(now: _State, n_starts: int) -> str:
    if now.mask is None:
        return f"start {len(now.ends)} of {n_starts} ended: {np.mean(now.ends[-1]['losses']):.5f}"
    return (
        f"start {len(now.ends) + 1} of {n_starts}, pass {now.n_passes}, {len(now.queue)} lines "
        f"left: {np.mean(now.losses):.5f} from {now.start_loss:.5f}"
    )


def _digest(
    losses: Sequence[Loss],
    plan: LinePlan,
    starts: Sequence[Bool],
    search: Search,
    about: Mapping[str, Any] | None,
) -> str:
    rows = [np.flatnonzero(rows).tolist() for rows in (plan.acquirable, plan.calibration)]
    what = [*rows, [np.flatnonzero(start).tolist() for start in starts], len(losses)]
    return settings_digest({"of": what, "search": asdict(search), "about": dict(about or {})})


def _restore(path: Path | None, digest: str) -> _State:
    if path is None or not path.exists():
        return _State(digest=digest)
    try:
        now = _State(**json.loads(path.read_text()))
    except (json.JSONDecodeError, TypeError) as error:
        raise ValueError(f"{path} is no state of a search: {error}; delete it") from error
    if now.digest != digest:
        raise ValueError(
            f"{path} is the state of a search over other scans, starts or settings; "
            "delete it or write elsewhere"
        )
    return now


def _save(path: Path, now: _State) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(asdict(now)))
    os.replace(part, path)


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The population masks of one stratum."""

    scans: str  # folder of a cohort
    out: str  # mask file: the ends of all descents on the reference plan, best first
    acceleration: float
    channels: Channels | Literal[""] = ""  # of the scans; any where empty
    n_calibration: int = 0  # with maps from a reference scan, at most so many lines; 0: a third
    reference: int = 160  # rows of the reference plan
    weights: str = "modl"  # of the reconstructor
    n_scans: int = 24  # at most, from the smallest matrix to the largest
    n_rows: int = 40  # of the band in x that is reconstructed
    n_perturbed: int = 1  # further starts: the best member with a quarter of its lines moved
    n_members: int = 1  # of the family, the best first
    n_screen: int = 10
    shortlist: int = 6
    n_passes: int = 2
    seed: int = 0

    @property
    def stratum(self) -> Stratum:
        """The kind of scans."""
        return Stratum(
            acceleration=self.acceleration,
            channels=self.channels,
            n_calibration=self.n_calibration,
        )


def shapes(scans: Path) -> dict[int, tuple[int, int, float]]:
    """Return channels, rows and acceleration of every scan of a cohort, by number."""
    found = {}
    for path in sorted(scans.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            n_coils, _, n_rows, _ = file.get_slice("kspace").get_shape()
            acceleration = float(file.get_tensor("acceleration"))
        found[int(path.stem)] = n_coils, n_rows, acceleration
    if not found:
        raise FileNotFoundError(f"no scans in {scans}: make the cohort first")
    return found


def members(scans: Path, stratum: Stratum) -> list[int]:
    """Return the numbers of the scans of a stratum, from the smallest matrix to the largest."""
    found = [
        (n_rows, number)
        for number, (n_coils, n_rows, acceleration) in shapes(scans).items()
        if stratum.holds(n_coils, acceleration)
    ]
    return [number for _, number in sorted(found)]


def chosen(config: Config) -> dict[int, Sample]:
    """Return the scans to search on, by number: evenly among those of the stratum by size.

    Raises
    ------
    ValueError
        If the cohort holds none.
    """
    folder = Path(config.scans)
    numbers = members(folder, config.stratum)
    if not numbers:
        raise ValueError(f"{folder} holds no scans of {config.stratum.name}")
    places = np.linspace(0, len(numbers) - 1, min(config.n_scans, len(numbers))).round()
    return {
        numbers[int(place)]: read_scan(folder, numbers[int(place)], config.n_calibration)
        for place in places
    }


def commonest_rows(scans: Path) -> Bool:
    """Return the acquirable rows (ky,) that most scans of a cohort have; of equals, the fewest."""
    counts: Counter[tuple[int, bytes]] = Counter()
    for path in scans.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            rows = file.get_tensor("acquirable").numpy()
        counts[rows.size, rows.tobytes()] += 1
    if not counts:
        raise FileNotFoundError(f"no scans in {scans}: make the cohort first")
    most = max(counts.values())
    return np.frombuffer(min(k for k, n in counts.items() if n == most)[1], dtype=bool)


def reference_plan(n_rows: int, stratum: Stratum) -> LinePlan:
    """Return the plan of `n_rows` rows on which masks of a stratum are searched."""
    usual = LinePlan.of(np.ones(n_rows, dtype=bool), stratum.acceleration)
    return usual.narrowed(stratum.n_calibration) if stratum.n_calibration else usual


def run(config: Config, report: Callable[[str], None] | None = None) -> list[Found]:
    """Find the masks of a configuration and write them, best first; nothing to do if written.

    Raises
    ------
    ValueError
        If the mask file or the state beside it is of another configuration, or scans are missing.
    """
    model, card = load_weights(config.weights)
    about = told(config) | {"weights_sha256": card["sha256"]}
    out = Path(config.out)
    if out.exists():
        return _written(out, about)
    samples = chosen(config)
    plan = reference_plan(config.reference, config.stratum)
    losses = [
        on_reference(scan_loss(sample, model, config.n_rows), sample.plan(), plan)
        for sample in samples.values()
    ]
    search = Search(**{key: getattr(config, key) for key in Search.__dataclass_fields__})
    starts = best_first(losses, family(plan), 2 * config.n_screen, config.seed)[: config.n_members]
    rng = np.random.default_rng(config.seed)
    for _ in range(config.n_perturbed):
        starts.append(perturbed(starts[0], plan, plan.n_movable // 4, rng))
    state = out.with_suffix(".state.json")
    ends = population(losses, plan, starts, search, state=state, about=about, report=report)
    ends.sort(key=lambda end: end.loss)
    arrays = {
        "loss": np.array([end.loss for end in ends]),
        "start_loss": np.array([end.start_loss for end in ends]),
        "losses": np.stack([end.losses for end in ends]),
        "n_evaluations": np.array([end.n_evaluations for end in ends]),
    }
    write_masks(out, {i: end.mask for i, end in enumerate(ends)}, about, arrays)
    state.unlink()
    return ends


def _written(out: Path, about: Mapping[str, Any]) -> list[Found]:
    file = read_masks(out, about)
    columns = (file.arrays[key] for key in ("losses", "start_loss", "n_evaluations"))
    return [
        Found(mask=mask, losses=losses, start_loss=float(start), n_evaluations=int(n))
        for mask, losses, start, n in zip(file.masks.values(), *columns, strict=True)
    ]


def main() -> None:
    """Search the mask of a configuration file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    config = read_config(Config, parser.parse_args().config)
    torch.set_num_threads(1)
    started = time.monotonic()

    def report(text: str) -> None:
        print(f"{time.monotonic() - started:7.0f} s  {text}", flush=True)

    run(config, report)


if __name__ == "__main__":
    main()
