"""What lies in an open HDF5 file, and nothing of it believed before it is looked at.

Tasks of `gadgets.files.hdf5_process` come here. Links and other files are not followed: who sends a
file must not choose what else is read.
"""

from pathlib import Path

import h5py

from ..errors import ProtocolError
from .hdf5_process import allow_memory

SIGNATURE = b"\x89HDF\r\n\x1a\n"
MOST_PACKED = 1032  # bytes that deflate makes of one at most
SMALL = 64 << 20  # bytes: a dataset that declares no more needs no proof that it has them
LONGEST_TEXT = 16 << 20  # bytes


def is_hdf5(path: Path) -> bool:
    """Say whether a file begins as HDF5, perhaps behind a user block."""
    place, end = 0, path.stat().st_size
    with path.open("rb") as file:
        while place + len(SIGNATURE) <= end:
            file.seek(place)
            if file.read(len(SIGNATURE)) == SIGNATURE:
                return True
            place = max(2 * place, 512)
    return False


def has(group: h5py.Group, name: str) -> bool:
    """Say whether a group has a member of that name, whatever it is and wherever it leads."""
    return name in group.keys()  # noqa: SIM118  `in group` says no for a link that leads nowhere


def dataset(group: h5py.Group, name: str) -> h5py.Dataset:
    """Return a dataset that lies in the file itself, whose bytes are there.

    Raises
    ------
    ProtocolError
        If it is absent, a group, a link, stored in another file, or larger than what is stored.
    """
    where = f"{group.name.rstrip('/')}/{name}"
    if not has(group, name):
        raise ProtocolError(f"{where}: expected a dataset, got none")
    link = group.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        raise ProtocolError(f"{where} is {_said(link)}: links are not followed")
    found = group[name]
    if not isinstance(found, h5py.Dataset):
        raise ProtocolError(f"{where}: expected a dataset, got a {type(found).__name__.lower()}")
    settings = found.id.get_create_plist()
    if settings.get_external_count() or found.is_virtual:
        raise ProtocolError(f"{where} is stored in other files, which are not read")
    if found.shape is None:
        raise ProtocolError(f"{where}: expected values, got none")
    declared = found.size * found.id.get_type().get_size()
    stored = found.id.get_storage_size()
    if declared > max(SMALL, stored * (MOST_PACKED if settings.get_nfilters() else 1)):
        raise ProtocolError(
            f"{where}: {list(found.shape)} values are {declared} bytes, the file has {stored}"
        )
    allow_memory(3 * declared)
    return found


def one_text(group: h5py.Group, name: str) -> bytes:
    """Return the one text that a dataset holds; ProtocolError if it holds anything else."""
    stored = dataset(group, name)
    where = stored.name
    if stored.size != 1 or stored.dtype.kind not in "OS":
        raise ProtocolError(f"{where}: expected one text, got {stored.dtype} {list(stored.shape)}")
    value = stored[()]
    while not isinstance(value, str | bytes):
        value = value.reshape(-1)[0] if hasattr(value, "reshape") else bytes(value)
    text = value.encode() if isinstance(value, str) else bytes(value)
    if not text or len(text) > LONGEST_TEXT:
        raise ProtocolError(
            f"{where}: expected a text of 1 to {LONGEST_TEXT} bytes, got {len(text)}"
        )
    return text


def subject_of(file: h5py.File) -> str:
    """Return whose scan it is: the pseudonym `patient_id` of fastMRI, or the file's name."""
    return str(file.attrs.get("patient_id", Path(file.filename).stem))


def _said(link: object) -> str:
    if isinstance(link, h5py.ExternalLink):
        return f"a link to another file, {link.filename!r}"
    return f"a link to {getattr(link, 'path', '?')!r}"
