"""A protocol and a course as a Pulseq sequence, and as a file."""

from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError
from .course import Course, Shot
from .limits import Limits
from .pen import Pen
from .protocol import OVERSAMPLING, Protocol
from .shots import Drawer, Labels, drawer

_SHOT, _DUMMY = 1, 2  # TRID: shots of one number have the same blocks


def sequence_of(protocol: Protocol, course: Course, limits: Limits, *, labels: bool = True) -> Any:
    """Draw a course as a pypulseq sequence.

    Slices that take turns share a TR in equal parts. Raises ConfigError where a protocol does not
    fit the limits or its TR, and where pypulseq is not installed.
    """
    pypulseq = pypulseq_module()
    sequence = pypulseq.Sequence(system=limits.opts())
    shots, pen = drawer(protocol, limits), Pen(sequence, protocol, limits)
    pause = _slot_us(protocol, limits, shots) - shots.us - limits.segment_us
    n_samples = 0
    for shot in course.shots():
        called = Labels(_called(shot, limits), written=labels)
        shots.draw(pen, shot.rows, protocol.slices_mm[shot.slice], called)
        pen.wait(pause)
        n_samples += shot.rows is not None
    if not n_samples:
        raise ConfigError("the course has no line to measure")
    for name, value in definitions(protocol, course, shots).items():
        sequence.set_definition(name, value)
    return sequence


def write_sequence(sequence: Any, path: Path, *, v141: bool = False) -> None:
    """Write a `.seq` file in Pulseq 1.5, or in 1.4.1 for older interpreters.

    Raises ConfigError for another ending, where the file cannot be written, and where pypulseq
    finds the timing wrong.
    """
    if path.suffix != ".seq":
        raise ConfigError(f"{path}: expected a name that ends in .seq")
    right, errors = sequence.check_timing()
    if not right:
        raise ConfigError(f"the sequence's timing is wrong in {len(errors)} places: {errors[0]}")
    try:
        sequence.write(str(path), v141_compat=v141, check_timing=False)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error}") from error


def definitions(protocol: Protocol, course: Course, shots: Drawer) -> dict[str, Any]:
    """Return what a file says of itself.

    `TE` is not among them: Siemens' interpreter holds a protocol to it that it cannot execute.
    """
    (x, y), (n_x, n_y) = protocol.fov_mm, protocol.matrix
    places = protocol.slices_mm
    apart = abs(places[1] - places[0]) if len(places) > 1 else protocol.thickness_mm
    deep = (max(places) - min(places) + protocol.thickness_mm) * 1e-3
    return {
        "Name": f"mnet_{protocol.kind}"[:16],
        "FOV": [x * 1e-3, y * 1e-3, deep],
        "Matrix": [n_x, n_y, len(places)],
        "SliceThickness": protocol.thickness_mm * 1e-3,
        "SliceGap": (apart - protocol.thickness_mm) * 1e-3,
        "SlicePositions": [place * 1e-3 for place in places],
        "ReadoutOversamplingFactor": OVERSAMPLING,
        "kSpaceCenterLine": n_y // 2,
        "kSpaceCenterSample": protocol.n_samples // 2,
        "EchoTrainLength": protocol.train,
        "MnetPart": course.part,
        "MnetLines": course.plan.n_lines,
        "MnetDirections": [float(v) for v in protocol.axes.T.reshape(-1)],
        "MnetEchoTime": shots.echo_us(course.order.centre_echo(course.plan)) * 1e-6,
        "MnetRepetitionTime": protocol.tr_ms * 1e-3,
    }


def _slot_us(protocol: Protocol, limits: Limits, shots: Drawer) -> int:
    """Return the time from shot to shot."""
    together = len(protocol.slices_mm) if protocol.interleaved else 1
    raster = limits.block_raster_us
    slot = int(np.floor(protocol.tr_ms * 1e3 / together / raster)) * raster
    needed = shots.us + limits.segment_us
    if slot < needed:
        raise ConfigError(
            f"{together} shots of {1e-3 * needed:g} ms do not fit into a TR of "
            f"{protocol.tr_ms:g} ms: expected {1e-3 * needed * together:g} ms or more, or fewer "
            "slices"
        )
    return slot


def _called(shot: Shot, limits: Limits) -> dict[str, int]:
    """Return the labels of a shot.

    A calibration line is one of parallel imaging's reference and of the image: REF and IMA, which
    interpreters take for that.
    """
    names = {"SLC": shot.slice, "REF": int(shot.calibration), "IMA": int(shot.calibration)}
    return names | ({"TRID": _DUMMY if shot.rows is None else _SHOT} if limits.trid else {})


def pypulseq_module() -> Any:
    """Return pypulseq; ConfigError where it is not installed."""
    try:
        import pypulseq
    except ImportError as error:
        raise ConfigError(
            "Pulseq sequences need pypulseq: pip install mnet-gadgets[sequence]"
        ) from error
    return pypulseq
