"""Data arguments of every command: k-space files and scan records, told apart by content."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py

from ..errors import GadgetsError, ProtocolError
from ..mrd.geometry import Geometry
from ..mrd.items import Acquisition, Waveform
from ..mrd.messages import Header
from .fastmri import FirstAxis, read_fastmri
from .mrd_hdf5 import read_images, read_mrd, write_images, write_mrd
from .scan_record import is_record, read_record
from .twix import is_twix, read_twix

__all__ = ["Source", "open_source", "read_images", "write_images", "write_mrd"]


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
    try:
        with h5py.File(path, "r") as file:
            return _from_hdf5(path, file, first_axis)
    except GadgetsError:
        raise
    # What h5py was seen to raise for files that are cut, damaged, or no HDF5.
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise ProtocolError(f"{path} cannot be read as HDF5: {error}") from error


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


def _from_hdf5(path: Path, file: h5py.File, first_axis: FirstAxis) -> Source:
    if "dataset/xml" in file and "dataset/data" in file:
        header, acquisitions, waveforms = read_mrd(file)
        return Source(
            kind="MRD HDF5", header=header, acquisitions=acquisitions, waveforms=waveforms
        )
    if "kspace" in file:
        header, acquisitions = read_fastmri(file, first_axis)
        return Source(kind="fastMRI HDF5", header=header, acquisitions=acquisitions)
    raise ProtocolError(
        f"{path} is neither MRD HDF5 (/dataset/xml, /dataset/data) nor fastMRI HDF5 (/kspace); "
        f"it holds {sorted(file)}"
    )
