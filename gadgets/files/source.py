"""Data arguments of every command: k-space files and scan records, told apart by content."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from ..errors import ConfigError, ProtocolError
from ..mrd.geometry import Geometry
from ..mrd.items import Acquisition, Waveform
from ..mrd.messages import Header
from ..records.reader import is_record, read_record
from .amend import amended
from .fastmri import FastmriFile, FirstAxis
from .foreign import foreign
from .hdf5 import is_hdf5
from .hdf5_process import read_apart
from .kspace_file import InMemory, KspaceFile
from .mrd2_stream import MAGIC, read_mrd2
from .mrd_hdf5 import MrdFile, read_images, write_images, write_mrd
from .mrd_stream import LOOK, MrdStreamFile, is_pipe, is_stream, read_header, read_items, reader
from .twix import is_twix, read_twix

__all__ = ["Source", "open_kspace", "open_source", "read_images", "write_images", "write_mrd"]

NOTHING: Mapping[str, str] = MappingProxyType({})
EXPECTED = (
    "MRD HDF5 (a group with xml and data), an MRD stream, MRD 2, fastMRI HDF5 (/kspace), "
    "Siemens twix or the folder of a scan record"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The content of a file: an MRD header and what follows it, in file order."""

    kind: str  # "MRD HDF5", "MRD stream", "MRD 2", "fastMRI HDF5", "Siemens twix" or "scan record"
    header: bytes  # XML
    acquisitions: Sequence[Acquisition]
    waveforms: Sequence[Waveform] = ()

    @property
    def geometry(self) -> Geometry:
        """Parse the header; HeaderError if it is broken or describes an unsupported scan.

        Not done when the file is opened: a client may send any header to a host.
        """
        return Geometry.parse(self.header)


def open_source(
    path: Path | str,
    *,
    first_axis: FirstAxis = "slice",
    group: str | None = None,
    header: Mapping[str, str] = NOTHING,
    as_it_is: bool = False,
) -> Source:
    """Read MRD (HDF5, or a stream in a file or pipe), fastMRI, twix or a record into memory.

    ``first_axis`` says what the first axis of a fastMRI array counts, ``group`` which of several
    scans in MRD HDF5 is meant, ``header`` what replaces what a header has wrong
    (`gadgets.mrd.header_values`); what it leaves out is taken from the lines (`amended`).
    ``as_it_is`` takes nothing from the lines, for who knows better what they are.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ProtocolError
        If it is of none of these formats, damaged, or without acquisitions.
    ConfigError
        If it holds several scans and none is named; for twix also as `read_twix`.
    HeaderError
        As `amended`; for fastMRI and twix also where the scan is not supported.
    """
    file = open_kspace(
        Path(path), first_axis=first_axis, group=group, header=header, as_it_is=as_it_is
    )
    return Source(
        kind=file.kind,
        header=file.header,
        acquisitions=file.lines(),
        waveforms=file.waveforms(),
    )


def open_kspace(
    path: Path,
    *,
    first_axis: FirstAxis = "slice",
    group: str | None = None,
    header: Mapping[str, str] = NOTHING,
    as_it_is: bool = False,
) -> KspaceFile:
    """Look at a file; readouts of HDF5 and of streams are read when they are asked for.

    For who wants one image at a time, of scans that may not fit into memory together. Arguments
    and errors are those of `open_source`.
    """
    if not path.exists():
        raise FileNotFoundError(f"no such file or folder: {path}")
    if not path.is_dir() and not is_pipe(path) and is_hdf5(path):
        file = _from_hdf5(path, first_axis, group, header)
    else:
        file = _opened(path)
    # fastMRI files have no MRD header to amend
    return file if as_it_is or isinstance(file, FastmriFile) else amended(file, header)


def _opened(path: Path) -> KspaceFile:
    """Look at a file that is no HDF5."""
    if is_record(path):
        return _from_record(path)
    if path.is_dir():
        raise ProtocolError(f"{path} cannot be read as HDF5: it is a folder, and no scan record")
    if is_pipe(path):
        return _from_pipe(path)
    with path.open("rb") as file:
        start = file.read(LOOK)
    if start.startswith(MAGIC):
        header, lines, waves = read_mrd2(path)
        return InMemory(kind="MRD 2", path=path, header=header, acquisitions=lines, waves=waves)
    if is_stream(start):
        return MrdStreamFile.of(path)
    if is_twix(path):
        xml, acquisitions = read_twix(path)
        return InMemory(kind="Siemens twix", path=path, header=xml, acquisitions=acquisitions)
    raise ProtocolError(
        foreign(path)
        or f"{path} cannot be read as HDF5, nor as a stream or twix: expected {EXPECTED}"
    )


def _from_hdf5(
    path: Path, first_axis: FirstAxis, group: str | None, header: Mapping[str, str]
) -> KspaceFile:
    there, _ = read_apart(path, "gadgets.files.mrd_hdf5:contents")
    if group is None and "kspace" in there["members"]:
        return FastmriFile.of(path, first_axis, header)
    found = there["groups"]
    if not found:
        raise ProtocolError(f"{path}: expected {EXPECTED}, got HDF5 with {there['members']}")
    chosen = found[0] if group is None and len(found) == 1 else (group or "").strip("/")
    if chosen in found:
        return MrdFile.of(path, chosen)
    listed = ", ".join(found)
    if group is None:
        raise ConfigError(f"{path} holds {len(found)} scans: name one with --group, of {listed}")
    raise ConfigError(f"{path} has no group {group!r} with a scan: expected one of {listed}")


def _from_pipe(path: Path) -> InMemory:
    """Read a stream from where nothing can be read twice."""
    with path.open("rb") as file:
        try:
            read = reader(file)
            header, items = read_header(read), list(read_items(read))
        except ProtocolError as error:
            raise ProtocolError(
                f"{path}: only an MRD stream is read from a pipe: {error}"
            ) from error
    return InMemory(
        kind="MRD stream",
        path=path,
        header=header,
        acquisitions=[item for item in items if isinstance(item, Acquisition)],
        waves=[item for item in items if isinstance(item, Waveform)],
    )


def _from_record(path: Path) -> InMemory:
    messages = list(read_record(path))
    headers = [message.xml for message in messages if isinstance(message, Header)]
    if not headers:
        raise ProtocolError(f"{path}: the record ends before the MRD header")
    return InMemory(
        kind="scan record",
        path=path,
        header=headers[0],
        acquisitions=[message for message in messages if isinstance(message, Acquisition)],
        waves=[message for message in messages if isinstance(message, Waveform)],
    )
