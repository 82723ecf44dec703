"""Header and counters of MRD, from the `.seq` file that a scan was measured with.

What converters make of a Pulseq scan differs: an encoded z of 2, a trajectory `other`, counters of
zero. The file itself knows every readout. What it cannot know stays that of the raw data: coils,
noise measurements, and where the console put the slices.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, SubElement

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError
from ..files.source import Source
from ..mask.messages import N_LINES
from ..mrd.geometry import LARGEST, find, parse, serialise
from ..mrd.header_layouts import Flag
from ..mrd.header_xml import header_xml
from ..mrd.items import Acquisition
from .write import pypulseq_module

Ints = NDArray[np.int64]
_NEEDED = ("Matrix", "FOV", "SliceThickness", "SlicePositions")
_LABELS = ("LIN", "SLC", "SEG", "REF", "IMA")
# what pypulseq's parser raises at what is no sequence, or half of one
_UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, RuntimeError, OSError)
_GEOMETRY = ("position", "read_dir", "phase_dir", "slice_dir")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Described:
    """What a `.seq` file says of its readouts, (lines,) each, in time."""

    path: Path
    definitions: dict[str, NDArray[np.float64]]
    ky: Ints
    slices: Ints
    echoes: Ints
    calibration: NDArray[np.bool_]
    n_samples: int
    dwell_us: float

    @property
    def matrix(self) -> tuple[int, int, int]:
        """Pixels along readout and phase encoding, and slices."""
        x, y, n = (int(value) for value in self.definitions["Matrix"])
        return x, y, n


def read_sequence(path: Path) -> Described:
    """Read what a `.seq` file says of its readouts.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ConfigError
        If it cannot be read, has no labels or lacks a definition, or these contradict each other.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    sequence = pypulseq_module().Sequence()
    if b"[VERSION]" not in path.read_bytes():  # at what is none, the parser leaves the file open
        raise ConfigError(f"{path} cannot be read as a Pulseq file: it has no [VERSION]")
    try:
        sequence.read(str(path), detect_rf_use=None)
        labels = sequence.evaluate_labels(evolution="adc")
    except _UNREADABLE as error:
        raise ConfigError(f"{path} cannot be read as a Pulseq file: {error}") from error
    lengths, dwells = _readouts(sequence)
    _check(path, sequence.definitions, labels, lengths)
    n = len(lengths)
    label = {name: np.asarray(labels.get(name, np.zeros(n)), np.int64) for name in _LABELS}
    described = Described(
        path=path,
        definitions={
            name: np.atleast_1d(np.asarray(value, dtype=float))
            for name, value in sequence.definitions.items()
            if not isinstance(value, str)
        },
        ky=label["LIN"],
        slices=label["SLC"],
        echoes=label["SEG"],
        calibration=(label["REF"] > 0) & (label["IMA"] > 0),
        n_samples=lengths[0],
        dwell_us=1e6 * dwells[0],
    )
    _check_counters(described)
    return described


def with_sequence(source: Source, path: Path) -> Source:
    """Return raw data with header and counters of the `.seq` file that they were measured with.

    Noise readouts stay as they are. Raises what `read_sequence` raises, and ConfigError where the
    data are not of this file.
    """
    described = read_sequence(path)
    lines = [a for a in source.acquisitions if not int(a.header["flags"]) & Flag.NOISE]
    if len(lines) != described.ky.size:
        raise ConfigError(
            f"{path} measures {described.ky.size} lines, the raw data have {len(lines)}: they are "
            "not of this sequence, or a converter has left lines out"
        )
    lengths = {int(line.header["number_of_samples"]) for line in lines}
    if lengths != {described.n_samples}:
        raise ConfigError(
            f"{path} measures {described.n_samples} samples a line, the raw data have "
            f"{sorted(lengths)}"
        )
    numbered = iter(_numbered(described, lines))
    acquisitions = [
        a if int(a.header["flags"]) & Flag.NOISE else next(numbered) for a in source.acquisitions
    ]
    header = _header(source.header, described, int(lines[0].header["active_channels"]))
    return replace(source, header=header, acquisitions=acquisitions)


def _numbered(described: Described, lines: list[Acquisition]) -> list[Acquisition]:
    placed = any(np.any(line.header["slice_dir"]) for line in lines)
    last = {int(s): i for i, s in enumerate(described.slices)}
    n = described.slices.size
    first = {int(s): n - 1 - i for i, s in enumerate(described.slices[::-1])}
    found = []
    for i, line in enumerate(lines):
        header = line.header.copy()
        for name in ("kspace_encode_step_2", "encoding_space_ref", "trajectory_dimensions"):
            header[name] = 0
        number = int(described.slices[i])
        header["kspace_encode_step_1"], header["slice"] = described.ky[i], number
        header["segment"], header["center_sample"] = described.echoes[i], described.n_samples // 2
        header["sample_time_us"] = described.dwell_us
        flags = Flag.FIRST_IN_SLICE * (first[number] == i) | Flag.LAST_IN_SLICE * (
            last[number] == i
        )
        if described.calibration[i]:
            flags |= Flag.CALIBRATION_AND_IMAGING | Flag.MASK_CALIBRATION
        header["flags"] = flags | Flag.LAST_IN_MEASUREMENT * (i == n - 1)
        if not placed:
            _place(header, described, number)
        found.append(replace(line, header=header, trajectory=None))
    return found


def _place(header: np.void, described: Described, number: int) -> None:
    """Put a line where the sequence has its slice, along the scanner's own axes."""
    axes = described.definitions.get("MnetDirections", np.eye(3).reshape(-1)).reshape(3, 3)
    offset = 1e3 * float(described.definitions["SlicePositions"][number])
    for name, value in zip(_GEOMETRY, (axes[2] * offset, *axes), strict=True):
        header[name] = value


def _header(raw: bytes, described: Described, n_coils: int) -> bytes:
    """Return the raw data's header with the encoding of the sequence."""
    x, y, n_slices = described.matrix
    fov_x, fov_y = (1e3 * float(v) for v in described.definitions["FOV"][:2])
    thick = 1e3 * float(described.definitions["SliceThickness"][0])
    over = described.n_samples // x
    ours = parse(
        header_xml(
            encoded=(described.n_samples, y, 1),
            encoded_fov=(fov_x * over, fov_y, thick),
            recon=(x, y, 1),
            recon_fov=(fov_x, fov_y, thick),
            n_coils=n_coils,
            n_slices=n_slices,
            user={N_LINES: str(int(described.definitions["MnetLines"][0]))}
            if "MnetLines" in described.definitions
            else None,
        )
    )
    _protocol(ours, described)
    root = parse(raw)
    for name in ("encoding", "sequenceParameters"):
        for element in root.findall(name):
            root.remove(element)
    # the schema's order: encodings and the sequence come behind the scanner, before users' values
    after = ("userParameters", "waveformInformation")
    at = next((i for i, child in enumerate(root) if child.tag in after), len(root))
    for name in ("sequenceParameters", "encoding"):
        if (described_part := ours.find(name)) is not None:
            root.insert(at, described_part)
    _user(root, ours)
    system = root.find("acquisitionSystemInformation")
    if system is None or system.find("receiverChannels") is None:
        for name in ("acquisitionSystemInformation", "experimentalConditions"):
            if root.find(name) is None:
                root.insert(list(root).index(find(root, "encoding")), find(ours, name))
    return serialise(root)


def _protocol(root: Element, described: Described) -> None:
    """Add echo train, TR and TE where the file tells them."""
    values = described.definitions
    if "EchoTrainLength" in values:
        train = SubElement(find(root, "encoding"), "echoTrainLength")
        train.text = str(int(values["EchoTrainLength"][0]))
    times = [
        (n, k) for n, k in (("TR", "MnetRepetitionTime"), ("TE", "MnetEchoTime")) if k in values
    ]
    if times:
        parameters = Element("sequenceParameters")
        root.insert(list(root).index(find(root, "encoding")) + 1, parameters)
        for name, key in times:
            SubElement(parameters, name).text = f"{1e3 * float(values[key][0]):g}"


def _user(root: Element, ours: Element) -> None:
    added = ours.find("userParameters")
    if added is None:
        return
    group = root.find("userParameters")
    if group is None:
        at = [i for i, child in enumerate(root) if child.tag == "waveformInformation"]
        root.insert(at[0] if at else len(root), added)
        return
    strings = [i for i, child in enumerate(group) if child.tag != "userParameterBase64"]
    for parameter in added:
        group.insert(strings[-1] + 1 if strings else 0, parameter)


def _readouts(sequence: Any) -> tuple[list[int], list[float]]:
    """Return samples and dwell time in s of every readout."""
    blocks = (sequence.get_block(number) for number in sequence.block_events)
    found = [(int(b.adc.num_samples), float(b.adc.dwell)) for b in blocks if b.adc is not None]
    return [n for n, _ in found], [dwell for _, dwell in found]


def _check(path: Path, definitions: Any, labels: Any, lengths: list[int]) -> None:
    missing = [name for name in _NEEDED if name not in definitions]
    if missing:
        raise ConfigError(f"{path} has no definition {missing[0]}, which a header needs")
    if not lengths:
        raise ConfigError(f"{path} has no readout")
    if "LIN" not in labels:
        raise ConfigError(
            f"{path} has no labels: write the same protocol without --no-labels, and give that one"
        )
    if len(set(lengths)) > 1:
        raise ConfigError(f"{path} has readouts of {sorted(set(lengths))} samples, expected one")


def _check_counters(described: Described) -> None:
    path, values = described.path, described.definitions
    sizes = {"Matrix": 3, "FOV": 3, "SliceThickness": 1}
    for name, size in sizes.items():
        if values[name].size != size or not np.all((values[name] > 0) & (values[name] <= LARGEST)):
            raise ConfigError(f"{path}: {name} is {values[name]}, expected {size} above 0")
    x, y, n = described.matrix
    if values["SlicePositions"].size != n:
        raise ConfigError(f"{path}: {values['SlicePositions'].size} SlicePositions of {n} slices")
    for name, counters, size in (("LIN", described.ky, y), ("SLC", described.slices, n)):
        if counters.min() < 0 or counters.max() >= size:
            raise ConfigError(
                f"{path}: {name} goes from {counters.min()} to {counters.max()}, and Matrix has "
                f"{size}"
            )
    if described.n_samples % x:
        raise ConfigError(f"{path}: {described.n_samples} samples are no multiple of {x} pixels")
