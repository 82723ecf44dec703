"""Data arguments of every command: k-space files and scan records, told apart by content."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ProtocolError
from ..mrd.geometry import Geometry
from ..mrd.items import Acquisition, Waveform
from ..mrd.messages import Header
from .fastmri import FastmriFile, FirstAxis
from .hdf5 import opened
from .mrd_hdf5 import MrdFile, read_images, write_images, write_mrd
from .scan_record import is_record, read_record
from .twix import is_twix, read_twix

__all__ = ["Source", "open_kspace", "open_source", "read_images", "write_images", "write_mrd"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The content of a file: an MRD header and what follows it, in file order."""

    kind: str  # "MRD HDF5", "fastMRI HDF5", "Siemens twix" or "scan record"
    header: bytes  # XML
    acquisitions: Sequence[Acquisition]
    waveforms: Sequence[Waveform] = ()

    @property
    def geometry(self) -> Geometry:
        """Parse the header; HeaderError if it is broken or describes an unsupported scan.

        Not done when the file is opened: a client may send any header to a host.
        """
        return Geometry.parse(self.header)


def open_source(path: Path | str, *, first_axis: FirstAxis = "slice") -> Source:
    """Read MRD or fastMRI HDF5, Siemens twix, or the folder of a scan record, into memory.

    ``first_axis`` says what the first axis of a fastMRI array counts. Raises FileNotFoundError,
    ProtocolError where the file is none of these or is damaged, and HeaderError; for twix also what
    `read_twix` does.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no such file or folder: {path}")
    if is_record(path):
        return _from_record(path)
    if path.is_file() and is_twix(path):
        header, acquisitions = read_twix(path)
        return Source(kind="Siemens twix", header=header, acquisitions=acquisitions)
    file = open_kspace(path, first_axis=first_axis)
    return Source(
        kind=file.kind,
        header=file.header,
        acquisitions=file.lines(),
        waveforms=file.waveforms(),
    )


def open_kspace(path: Path, *, first_axis: FirstAxis = "slice") -> MrdFile | FastmriFile:
    """Look at MRD or fastMRI HDF5, whose readouts are read when they are asked for.

    For who wants one image at a time, of scans that may not fit into memory together. Raises
    ProtocolError where the file is neither or is damaged.
    """
    with opened(path) as file:
        if "dataset/xml" in file and "dataset/data" in file:
            return MrdFile.of(path, file)
        if "kspace" in file:
            return FastmriFile.of(path, file, first_axis)
        raise ProtocolError(
            "expected MRD HDF5 (/dataset/xml, /dataset/data) or fastMRI HDF5 (/kspace), "
            f"got {sorted(file)}"
        )


def _from_record(path: Path) -> Source:
    messages = list(read_record(path))
    headers = [message.xml for message in messages if isinstance(message, Header)]
    if not headers:
        raise ProtocolError(f"{path}: the record ends before the MRD header")
    return Source(
        kind="scan record",
        header=headers[0],
        acquisitions=[message for message in messages if isinstance(message, Acquisition)],
        waveforms=[message for message in messages if isinstance(message, Waveform)],
    )
