"""HDF5 files opened for reading, with errors that name them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from ..errors import ProtocolError


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """Open a file; a ProtocolError from within names it, and so does what h5py raises.

    Raises
    ------
    ProtocolError
        If the file is cut, damaged, or no HDF5.
    """
    try:
        with h5py.File(path, "r") as file:
            yield file
    except ProtocolError as error:
        raise ProtocolError(f"{path}: {error}") from error
    # What h5py was seen to raise for files that are cut, damaged, or no HDF5.
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise ProtocolError(f"{path} cannot be read as HDF5: {error}") from error


def subject_of(file: h5py.File, path: Path) -> str:
    """Return whose scan it is: the pseudonym `patient_id` of fastMRI, or the file's name."""
    return str(file.attrs.get("patient_id", path.stem))
