"""Siemens twix (.dat), syngo VD and later: the last measurement as an MRD header and readouts.

Samples, counters and geometry are taken over; of the protocol only the numbers that a header
needs, so that names, dates of birth and the like stay behind. Directions are those that
siemens_to_ismrmrd writes: the quaternion's columns are phase, read and slice. Reading itself is
done by twixtools, the extra ``twix``.
"""

import io
import logging
import struct
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, HeaderError, ProtocolError
from ..mrd.header_layouts import ACQUISITION_HEADER, Flag, flags_of, is_imaging
from ..mrd.header_xml import header_xml
from ..mrd.items import Acquisition
from .fastmri import channel_mask

log = logging.getLogger(__name__)

_ENTRY = struct.Struct("<IIQQ64s64s")  # one measurement of the file: ids, offset, length, names
_COUNTERS = {
    "kspace_encode_step_1": "Lin",
    "average": "Ave",
    "slice": "Sli",
    "contrast": "Eco",
    "phase": "Phs",
    "repetition": "Rep",
    "set": "Set",
    "segment": "Seg",
}
_FLAGS = {  # bits of the evaluation mask
    1: Flag.RT_FEEDBACK,
    2: Flag.HP_FEEDBACK,
    11: Flag.LAST_IN_MEASUREMENT,
    14: Flag.NAVIGATION,  # phase stabilisation: reference
    15: Flag.NAVIGATION,  # and scan
    21: Flag.PHASE_CORRECTION,
    22: Flag.CALIBRATION,
    23: Flag.CALIBRATION_AND_IMAGING,
    24: Flag.REVERSE,
    25: Flag.NOISE,
    28: Flag.FIRST_IN_SLICE,
    29: Flag.LAST_IN_SLICE,
    51: Flag.DUMMY,
}


def is_twix(path: Path) -> bool:
    """Say whether a file begins as twix files do, whatever their version."""
    with path.open("rb") as file:
        start = file.read(8 + _ENTRY.size)
    return _is_vb(start) or (len(start) == 8 + _ENTRY.size and 0 < _count(start) <= 64)


def read_twix(path: Path) -> tuple[bytes, list[Acquisition]]:
    """Read header and readouts, in the order in which they were measured.

    Raises
    ------
    ConfigError
        If twixtools is not installed.
    HeaderError
        If the scan is 3-D, multiband, EPI or not Cartesian.
    ProtocolError
        If the file is of syngo VB, cut or damaged, or holds no image lines.
    """
    try:
        import twixtools
    except ImportError as error:
        raise ConfigError(
            f"{path}: reading Siemens twix needs twixtools: pip install mnet-gadgets[twix]"
        ) from error
    _check_whole(path)
    remarks = io.StringIO()
    try:
        with redirect_stdout(remarks):
            scan = twixtools.read_twix(
                str(path),
                include_scans=-1,
                parse_pmu=False,
                parse_geometry=False,
                verbose=False,
                keep_syncdata=False,
            )[-1]
            blocks = [(block.mdh, block.data) for block in scan["mdb"]]
    # What twixtools was seen to raise for damaged files.
    except (ValueError, KeyError, IndexError, TypeError, OverflowError, struct.error) as error:
        raise ProtocolError(f"{path} cannot be read as Siemens twix: {error!r}") from error
    said = remarks.getvalue().strip()
    if "error" in said.lower():  # twixtools goes on with what it has
        raise ProtocolError(f"{path} is damaged; twixtools says: {said}")
    if said:
        log.warning("%s: %s", path, said)
    protocol = _Protocol(path, scan.get("hdr", {}))
    protocol.refuse_unsupported()
    lines = [_line(mdh, data, protocol) for mdh, data in blocks]
    _refuse_3d(path, blocks, lines)
    return _header(path, protocol, blocks, lines), lines


def _is_vb(start: bytes) -> bool:
    return start[8:15] == b"Config\0"


def _count(start: bytes) -> int:
    """Return the number of measurements; 0 where this is no twix file of VD or later."""
    size, count = struct.unpack_from("<II", start)
    offset = _ENTRY.unpack_from(start, 8)[2]
    return int(count) if size < 10_000 and offset >= 8 + _ENTRY.size else 0


def _check_whole(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(8 + 64 * _ENTRY.size)
        if _is_vb(start):
            raise ProtocolError(
                f"{path} is a twix file of syngo VB; VD and later are read. Convert it with "
                "siemens_to_ismrmrd first"
            )
        last = 8 + (_count(start) - 1) * _ENTRY.size
        if len(start) < last + _ENTRY.size:
            raise ProtocolError(f"{path} is cut within the list of its measurements")
        count, end = _count(start), sum(_ENTRY.unpack_from(start, last)[2:4])
        there = file.seek(0, io.SEEK_END)
    if there < end:
        raise ProtocolError(f"{path} is cut: it has {there} bytes, expected at least {end}")
    if count > 1:
        log.info("%s holds %d measurements; the last one is taken", path, count)


class _Protocol:
    """The numbers of a protocol; those that are missing and needed are named."""

    def __init__(self, path: Path, sections: dict[str, Any]) -> None:
        self._path, self._sections = path, sections

    def number(self, name: str, default: float | None = None) -> float:
        """Return a number of the ASCCONV protocol, such as ``asSlice[0].dPhaseFOV``."""
        value: Any = self._sections.get("MeasYaps", {})
        for part in name.replace("[", ".").replace("]", "").split("."):
            index = int(part) if part.isdigit() else part
            try:
                value = value[index]
            except (KeyError, IndexError, TypeError):
                value = default
                break
        if not isinstance(value, int | float):
            raise ProtocolError(f"{self._path}: the protocol has no number {name}, got {value!r}")
        return float(value)

    def derived(self, name: str, default: float) -> float:
        """Return a number of the part that the scanner derives from the protocol."""
        value = self._sections.get("Meas", {}).get(name)
        return float(value) if isinstance(value, int | float) else default

    def refuse_unsupported(self) -> None:
        for name, supported, what in (
            ("sKSpace.ucTrajectory", (1,), "a trajectory that is not Cartesian"),
            ("sKSpace.ucDimension", (1, 2, 4), "3-D encoding"),  # 4 is 3-D, but see _refuse_3d
            ("sFastImaging.lEPIFactor", (0, 1), "EPI"),
            ("sSliceAcceleration.lMultiBandFactor", (0, 1), "multiband"),
        ):
            value = self.number(name, supported[0])
            if value not in supported:
                raise HeaderError(f"{self._path}: {what} is not supported ({name} is {value:g})")


def _refuse_3d(path: Path, blocks: list[tuple[Any, Any]], lines: list[Acquisition]) -> None:
    """Refuse more than one partition: Pulseq's protocol says 3-D whatever the sequence does."""
    pairs = zip(blocks, lines, strict=True)
    found = {int(mdh.Counter.Par) for (mdh, _), line in pairs if is_imaging(flags_of(line.header))}
    if len(found) > 1:
        raise HeaderError(f"{path}: 3-D encoding is not supported: {len(found)} partitions")


def _line(mdh: Any, data: NDArray[np.complex64], protocol: _Protocol) -> Acquisition:
    header: np.void = np.zeros(1, ACQUISITION_HEADER)[0]
    n_coils, n_samples = data.shape
    flags = 0
    for bit, flag in _FLAGS.items():
        flags |= flag if int(mdh.EvalInfoMask) & 1 << bit else 0
    header["version"], header["flags"] = 1, flags
    header["measurement_uid"], header["scan_counter"] = mdh.MeasUID, mdh.ScanCounter
    header["acquisition_time_stamp"] = mdh.TimeStamp
    header["physiology_time_stamp"][0] = mdh.PMUTimeStamp
    header["number_of_samples"], header["center_sample"] = n_samples, mdh.CenterCol
    header["available_channels"] = header["active_channels"] = n_coils
    header["channel_mask"] = channel_mask(n_coils)
    header["discard_pre"], header["discard_post"] = mdh.CutOff.Pre, mdh.CutOff.Post
    header["sample_time_us"] = (
        int(76800 / n_samples) / 10  # noise has its own bandwidth: 130 Hz per sample
        if flags & Flag.NOISE
        else protocol.number(f"sRXSPEC.alDwellTime[{mdh.Counter.Eco}]") / 1000
    )
    place = mdh.SliceData
    header["position"] = place.SlicePos.Sag, place.SlicePos.Cor, place.SlicePos.Tra
    header["phase_dir"], header["read_dir"], header["slice_dir"] = _rotation(place.Quaternion).T
    for ours, theirs in _COUNTERS.items():
        header[ours] = getattr(mdh.Counter, theirs)
    return Acquisition(header=header, data=np.array(data, np.complex64))


def _rotation(quaternion: NDArray[np.float32]) -> NDArray[np.float64]:
    """Turn a quaternion (scalar first) into a matrix whose columns are phase, read, slice."""
    w, x, y, z = (float(part) for part in quaternion)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def _header(
    path: Path, protocol: _Protocol, blocks: list[tuple[Any, Any]], lines: list[Acquisition]
) -> bytes:
    imaging = [i for i, line in enumerate(lines) if is_imaging(int(line.header["flags"]))]
    if not imaging:
        raise ProtocolError(f"{path} holds no image lines among its {len(lines)} readouts")
    headers = np.stack([lines[i].header for i in imaging])
    counts = {name: int(headers[name].max()) + 1 for name in _COUNTERS}
    base = round(protocol.number("sKSpace.lBaseResolution"))
    slice_ = "sSliceArray.asSlice[0]"
    fov_x, fov_y, thickness = (
        protocol.number(f"{slice_}.{name}") for name in ("dReadoutFOV", "dPhaseFOV", "dThickness")
    )
    factor = protocol.derived("flReadoutOSFactor", 2.0)
    wider = 1 + protocol.number("sKSpace.dPhaseOversamplingForDialog", 0.0)
    return header_xml(
        encoded=(round(base * factor), round(protocol.number("sKSpace.lPhaseEncodingLines")), 1),
        encoded_fov=(fov_x * factor, fov_y * wider, thickness),
        recon=(base, round(base * fov_y / fov_x), 1),
        recon_fov=(fov_x, fov_y, thickness),
        n_coils=lines[imaging[0]].data.shape[0],
        ky_min=int(headers["kspace_encode_step_1"].min()),
        ky_max=counts["kspace_encode_step_1"] - 1,
        center=int(blocks[imaging[0]][0].CenterLin),
        n_slices=counts["slice"],
        n_contrasts=counts["contrast"],
        n_phases=counts["phase"],
        n_repetitions=counts["repetition"],
        n_sets=counts["set"],
        n_averages=counts["average"],
        measurement_id=str(int(headers["measurement_uid"][0])),
        tr_ms=protocol.number("alTR[0]") / 1000,
    )
