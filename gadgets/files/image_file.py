"""Files that hold finished images: MRD HDF5, or a stream as `mnet stream` writes it."""

from pathlib import Path

from ..errors import ProtocolError
from ..mrd.items import Image
from ..mrd.messages import Text
from .hdf5 import is_hdf5
from .mrd2_stream import MAGIC, Mrd2Reader, read_mrd2_images
from .mrd_hdf5 import has_series
from .mrd_hdf5 import read_images as read_images_of_hdf5
from .mrd_stream import LOOK, is_stream, messages, read_header, reader


def has_images(path: Path) -> bool:
    """Say whether a file holds images and no raw data; False for whatever is no such file."""
    if not path.is_file():
        return False
    if is_hdf5(path):
        return has_series(path)
    with path.open("rb") as stream:
        start = stream.read(LOOK)
        stream.seek(0)
        try:
            if start.startswith(MAGIC):
                return isinstance(next(Mrd2Reader(stream, str(path)).items(), None), Image)
            if not is_stream(start):
                return False
            read = reader(stream)
            read_header(read)
            first = next((m for m in messages(read) if not isinstance(m, Text)), None)
        except ProtocolError:
            return False
    return isinstance(first, Image)


def read_images(path: Path) -> list[Image]:
    """Read every image of a file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ProtocolError
        If it is damaged, or holds no images.
    """
    if not path.exists():
        raise FileNotFoundError(f"no such file: {path}")
    if not has_images(path):
        raise ProtocolError(
            f"{path} holds no images: expected MRD HDF5 as replay and scan write it with "
            "--output, or what `mnet stream` writes"
        )
    if is_hdf5(path):
        return read_images_of_hdf5(path)
    with path.open("rb") as stream:
        if stream.peek(len(MAGIC)).startswith(MAGIC):
            return read_mrd2_images(path)
        read = reader(stream)
        read_header(read)
        return [message for message in messages(read) if isinstance(message, Image)]
