"""`mnet scan`: play a file through the closed loop, score what comes back, prove what was sent."""

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mnet.masks.line_plan import Bool, LinePlan
from mnet.sampler.choosing import EXPECTED, Choosing
from mnet.score.comparison import Volume, maps, reference, rss
from mnet.score.image_quality import score
from mnet.sequence.echo_order import EchoOrder, Rule, default_rule
from mnet.weight_files import load_weights

from ..errors import ConfigError, IncompleteError
from ..files.source import Source
from ..files.tissue_maps import TissueMaps
from ..host.child_host import Address
from ..mrd.complete import check_complete, placed, without_empty_edges
from ..mrd.geometry import SMALLEST
from ..mrd.header_layouts import ACQUISITION_HEADER, is_imaging
from ..mrd.items import Acquisition, Frame, Image
from ..mrd.line_index import line_index
from ..records.reader import read_record
from ..steps.image_finish import SERIES
from .frames import frames_of
from .scan_result import Result
from .sequence import Played, SequenceParameters, play
from .simulated_lines import Physics, SimulatedLines

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a user can choose about a scan."""

    config: str = "adaptive_modl.xml"
    acceleration: float = 4.0
    deadline_ms: float = 1000.0
    tr_ms: float = 0.0
    order: Rule | None = None  # None: the default of the train's length
    echo_train: int = 1
    effective_echo: int | None = None
    dummies: int = 0
    interleave: bool = False
    physics: Physics | None = None  # None: the lines of the file as they were recorded


def acquirable_rows(source: Source) -> Bool:
    """Return the rows (ky,) that every image of a fully sampled file has.

    Rows at the edges that hold only zeros are padding: not acquirable, and none of a budget.

    Raises
    ------
    IncompleteError
        If lines or samples are missing, slices differ, or k-space is not centred; it says which.
    GadgetError
        If lines do not fit the header.
    """
    geometry = source.geometry
    headers = np.array([line.header for line in source.acquisitions], ACQUISITION_HEADER)
    index = line_index(headers, geometry)
    rows = index.acquirable
    for number, lines in enumerate(index.slices):
        kspace = placed([source.acquisitions[i] for i in lines.tolist()], geometry)
        if number == 0:
            rows = without_empty_edges(kspace, rows)
        try:
            check_complete(kspace, rows, geometry)
        except IncompleteError as error:
            raise IncompleteError(f"slice {number}: {error}") from error
    n_empty = int((index.acquirable & ~rows).sum())
    if n_empty:
        log.warning("%d rows at the edges hold only zeros: not acquirable", n_empty)
    return rows


def fully_sampled(source: Source) -> list[Frame]:
    """Return every image of a file as a frame: whitened, in hybrid space, averages combined."""
    return frames_of(source.acquisitions, source.geometry)


def plan_lines(acquirable: Bool, acceleration: float, echo_train: int = 1) -> LinePlan:
    """Plan budget and calibration on the rows (ky,) that a file holds.

    Raises
    ------
    ConfigError
        If they have no room for the calibration lines, or for an echo train.
    """
    try:
        plan = LinePlan.of(acquirable, acceleration, group_size=echo_train)
    except ValueError as error:
        raise ConfigError(
            f"no mask can be planned at {acceleration:g}x: {error}; see --acceleration and "
            "--echo-train"
        ) from error
    if plan.calibration.sum() < SMALLEST:
        raise ConfigError(
            f"no mask can be planned at {acceleration:g}x: it leaves {plan.calibration.sum()} "
            f"calibration lines, at least {SMALLEST} are needed for coil maps"
        )
    return plan


def adaptive_scan(
    source: Source,
    address: Address,
    options: Options,
    records: Path | None = None,
    on_slice: Callable[[Played], None] | None = None,
    tissues: TissueMaps | None = None,
    acquirable: Bool | None = None,
) -> Result:
    """Run the closed loop on a file and score the images.

    With `options.physics` the lines are computed from tissue maps, and the reference is that of all
    lines in steady state at the echo of k = 0. Raises ConfigError where the maps are missing.

    `acquirable` is what `acquirable_rows` says of the source, where the caller has asked already.
    `records` is the host's folder of records where it can be read: then the JSON says whether the
    host received the calibration and the lines applied, and no others. Errors are those of
    `acquirable_rows` and `plan_lines`, before anything is sent, and those of the host.
    """
    order = echo_order(options)
    lines = _simulated(source, tissues, options)
    if lines is not None:
        acquirable = lines.acquirable
    elif acquirable is None:
        acquirable = acquirable_rows(source)
    plan = plan_lines(acquirable, options.acceleration, options.echo_train)
    if lines is not None:
        source = replace(source, acquisitions=lines.reference(order.centre_echo(plan)))
    frames = fully_sampled(source)
    sampler, card = load_weights("mnet_select")
    if not isinstance(sampler, Choosing):
        raise ConfigError(
            f"weights 'mnet_select' are a {type(sampler).__name__}, expected {EXPECTED}"
        )
    sequence = _sequence(plan, sampler, options, order)
    before = set() if records is None else {path.name for path in records.glob("*")}
    played, wire = play(
        source, sequence, address, options.config, on_slice, lines, must_answer=True
    )
    volume = _volume(frames, plan, source)
    by_key = {p.key: p for p in played}
    applied = [by_key[f.key.slice, f.key.repetition] for f in frames]
    csm = maps(volume)
    truth, images = reference(volume, csm), _received(frames, wire, source)
    entries = _entries(source, frames, plan, applied, wire, volume, images, truth, options)
    summary: dict[str, Any] = _summary(entries, plan)
    summary |= {"config": options.config, "deadline_ms": options.deadline_ms}
    summary |= {
        "order": order.rule,
        "echo_train": order.train,
        "effective_echo": order.centre_echo(plan),
        "dummies": options.dummies,
        "interleave": options.interleave,
        "physics": None if options.physics is None else asdict(options.physics),
    }
    summary["sampler_sha256"] = card["sha256"]
    if records is not None:
        new = [path for path in records.glob("*") if path.name not in before]
        summary["record"] = _proof(new, played)
    return Result(
        json={"slices": entries, "summary": summary},
        center=source.geometry.center,
        volume=volume,
        csm=csm,
        reference=truth,
        images=images,
        wire=wire,
        order=order,
        dummies=options.dummies,
        lines=lines,
    )


def _sequence(
    plan: LinePlan, sampler: Choosing, options: Options, order: EchoOrder
) -> SequenceParameters:
    return SequenceParameters(
        plan=plan,
        fallback=sampler.population(plan),
        deadline_ms=options.deadline_ms,
        tr_ms=options.tr_ms,
        echo_order=order,
        dummies=options.dummies,
        interleave=options.interleave,
    )


def echo_order(options: Options) -> EchoOrder:
    """Return the order of lines in shots; ConfigError where options contradict each other."""
    try:
        return EchoOrder(
            rule=options.order or default_rule(options.echo_train),
            train=options.echo_train,
            effective_echo=options.effective_echo,
        )
    except ValueError as error:
        raise ConfigError(f"{error}; see --order, --echo-train, --effective-echo") from error


def _simulated(
    source: Source, tissues: TissueMaps | None, options: Options
) -> SimulatedLines | None:
    """Return the lines that the physics of the options makes of tissue maps."""
    if options.physics is None:
        return None
    if tissues is None:
        raise ConfigError("--physics needs tissue maps")
    return SimulatedLines(
        source.acquisitions, source.geometry, tissues, options.physics, options.echo_train
    )


def _volume(frames: list[Frame], plan: LinePlan, source: Source) -> Volume:
    geometry = source.geometry
    kspace = torch.from_numpy(np.stack([frame.kspace for frame in frames]))
    kspace[..., ~torch.from_numpy(plan.acquirable)] = 0
    return Volume(kspace=kspace, plan=plan, crop=geometry.kept, matrix=geometry.recon[:2])


def _received(frames: list[Frame], wire: list[Image], source: Source) -> Tensor:
    """Return the images (n, x, y) in the order of the frames; zero where none arrived."""
    found = {_image_key(i): i for i in wire if int(i.header["image_series_index"]) == SERIES}
    empty = np.zeros(source.geometry.recon[:2], np.float32)
    images = []
    for frame in frames:
        image = found.get((frame.key.slice, frame.key.repetition, frame.key.contrast))
        if image is None:
            images.append(empty)
            continue
        slope = float(image.meta.get("RescaleSlope", "1"))
        images.append(np.abs(image.data[0, 0]).T.astype(np.float32) * np.float32(slope))
    return torch.from_numpy(np.stack(images))


def _image_key(image: Image) -> tuple[int, int, int]:
    header = image.header
    return int(header["slice"]), int(header["repetition"]), int(header["contrast"])


def _entries(
    source: Source,
    frames: list[Frame],
    plan: LinePlan,
    applied: list[Played],
    wire: list[Image],
    volume: Volume,
    images: Tensor,
    truth: Tensor,
    options: Options,
) -> list[dict[str, Any]]:
    geometry = source.geometry
    scores = score(images, truth, rss(volume))
    series = [i for i in wire if int(i.header["image_series_index"]) == SERIES]
    meta = {_image_key(i): i.meta for i in series}
    received = [meta.get((f.key.slice, f.key.repetition, f.key.contrast)) for f in frames]
    n_acquirable = int(plan.acquirable.sum())
    return [
        {
            "slice": frame.key.slice,
            "repetition": frame.key.repetition,
            "contrast": frame.key.contrast,
            "n_lines": len(one.counters),
            "acceleration": n_acquirable / len(one.counters),
            "acceleration_encoded": geometry.n_ky / len(one.counters),
            "acceleration_nominal": options.acceleration,
            "mask": list(one.counters),
            "fallback": one.fallback,
            "reason": one.reason,
            "choice": (got or {}).get("mnet_choice", ""),
            "mask_latency_ms": one.latency_ms,
            "recon_ms": float(got["mnet_recon_ms"]) if got is not None else None,
            "image_received": got is not None,
            "fallback_in_meta": (got or {}).get("mnet_fallback"),
            "reason_in_meta": (got or {}).get("mnet_reason"),
            "fov_folded": (got or {}).get("mnet_fov_folded") == "true",
            "nrmse": float(scores.nrmse[i]),
            "nrmse_rss": float(scores.nrmse_rss[i]),
            "psnr": float(scores.psnr[i]),
            "ssim": float(scores.ssim[i]),
        }
        for i, (frame, one, got) in enumerate(zip(frames, applied, received, strict=True))
    ]


def _summary(entries: list[dict[str, Any]], plan: LinePlan) -> dict[str, Any]:
    def mean(name: str) -> float:
        return float(np.mean([entry[name] for entry in entries]))

    latencies = [e["mask_latency_ms"] for e in entries if e["mask_latency_ms"] is not None]
    recon = [e["recon_ms"] for e in entries if e["recon_ms"] is not None]
    return {
        **{name: mean(name) for name in ("nrmse", "nrmse_rss", "psnr", "ssim")},
        "n_slices": len(entries),
        "n_lines": plan.n_lines,
        "n_calibration": int(plan.calibration.sum()),
        "n_acquirable": int(plan.acquirable.sum()),
        "fallbacks": sum(entry["fallback"] for entry in entries),
        "images": sum(entry["image_received"] for entry in entries),
        "mask_latency_ms_median": float(np.median(latencies)) if latencies else None,
        "mask_latency_ms_p99": float(np.percentile(latencies, 99)) if latencies else None,
        "recon_ms_median": float(np.median(recon)) if recon else None,
    }


def _proof(folders: list[Path], played: list[Played]) -> dict[str, Any]:
    """Compare the raw log of the host with what the scanner says it applied."""
    if len(folders) != 1:
        return {"found": len(folders)}
    received: dict[tuple[int, int], list[int]] = {}
    for message in read_record(folders[0]):
        if isinstance(message, Acquisition) and is_imaging(int(message.header["flags"])):
            key = int(message.header["slice"]), int(message.header["repetition"])
            received.setdefault(key, []).append(int(message.header["kspace_encode_step_1"]))
    unasked = sum(len(set(received.get(p.key, [])) - set(p.counters)) for p in played)
    missing = sum(len(set(p.counters) - set(received.get(p.key, []))) for p in played)
    return {
        "folder": str(folders[0]),
        "lines_received": sum(len(counters) for counters in received.values()),
        "unasked_lines": unasked,
        "missing_lines": missing,
        "only_asked_lines": unasked == 0 and missing == 0,
    }
