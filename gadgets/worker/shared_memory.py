"""Items between the front and the worker: JSON over a socket pair, arrays in shared memory.

An array crosses as an anonymous file that both ends map: one copy on the sending side, none on the
other, nothing pickled, and nothing left behind when either process is killed, because the memory
has no name.
"""

import json
import mmap
import os
import socket
import struct
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ProtocolError
from ..mrd.header_layouts import ACQUISITION_HEADER, IMAGE_HEADER, WAVEFORM_HEADER, ImageKey
from ..mrd.items import Acquisition, Frame, Image, Item, Mask, PreScan, Waveform
from ..mrd.sockets import put_all

_KINDS: dict[str, type[Any]] = {
    kind.__name__: kind for kind in (Acquisition, Waveform, PreScan, Mask, Frame, Image)
}
_HEADERS = {dtype.itemsize: dtype for dtype in (ACQUISITION_HEADER, IMAGE_HEADER, WAVEFORM_HEADER)}
_PREFIX = struct.Struct("<IB")  # length of the JSON, number of files (0 or 1)
_ALIGN = 64

Json = dict[str, Any]
Arrays = list[NDArray[Any]]


class NoFileError(OSError):
    """The arrays of a message were lost, because this process may open no file more.

    `kind` and `body` are the rest of the message; the pipe goes on.
    """

    def __init__(self, kind: str, body: Json) -> None:
        super().__init__("no file descriptor is left for the arrays of a message")
        self.kind, self.body = kind, body


class SharedMemoryPipe:
    """One end of a socket pair; sending is safe from any thread, receiving is for one."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()

    def send(
        self, kind: str, body: Json | None = None, arrays: Sequence[NDArray[Any]] = ()
    ) -> None:
        """Send one message; raises OSError when the other end is gone."""
        layout: list[Json] = []
        size = 0
        for array in arrays:
            layout.append({"shape": array.shape, "dtype": array.dtype.str, "offset": size})
            size += -(-array.nbytes // _ALIGN) * _ALIGN
        text = json.dumps({"kind": kind, "body": body or {}, "arrays": layout}).encode()
        file = _anonymous_file(size) if size else None
        try:
            if file is not None:
                for array, place in zip(arrays, layout, strict=True):
                    # written, for pages that are mapped would be cleared first
                    os.lseek(file, place["offset"], os.SEEK_SET)
                    put_all(partial(os.writev, file), [_bytes_of(array)])
            with self._lock:
                files = [] if file is None else [file]
                prefix = _PREFIX.pack(len(text), len(files))
                sent = socket.send_fds(self._sock, [prefix], files)
                self._sock.sendall(prefix[sent:] + text)
        finally:
            if file is not None:
                os.close(file)

    def receive(self) -> tuple[str, Json, Arrays]:
        """Wait for one message.

        Raises EOFError or OSError when the other end is gone, NoFileError for this message alone.
        """
        prefix, files, _, _ = socket.recv_fds(self._sock, _PREFIX.size, 1)
        try:
            if not prefix:
                raise EOFError("the other process is gone")
            prefix += self._exactly(_PREFIX.size - len(prefix))
            length, n_files = _PREFIX.unpack(prefix)
            message = json.loads(self._exactly(length))
            if len(files) != n_files:  # the kernel drops what does not fit the process's table
                raise NoFileError(message["kind"], message["body"])
            try:
                memory = mmap.mmap(files[0], 0) if files else b""  # lives as long as arrays on it
            except OSError as error:
                raise NoFileError(message["kind"], message["body"]) from error
        finally:
            for file in files:
                os.close(file)
        return message["kind"], message["body"], [_view(memory, p) for p in message["arrays"]]

    def close(self) -> None:
        """Close this end; the other one reads the end."""
        with suppress(OSError):  # the other end closed first
            self._sock.shutdown(socket.SHUT_RDWR)
        self._sock.close()

    def _exactly(self, n: int) -> bytes:
        data = bytearray()
        while len(data) < n:
            part = self._sock.recv(n - len(data))
            if not part:
                raise EOFError("the other process is gone")
            data += part
        return bytes(data)


def pack(item: Item) -> tuple[Json, Arrays]:
    """Take an item apart into JSON and arrays; of a frame's k-space, only what was measured."""
    arrays: Arrays = []
    values: Json = {}
    for field in fields(item):
        value = getattr(item, field.name)
        if isinstance(item, Frame) and field.name == "kspace":
            value = value.transpose(2, 0, 1)[item.mask]
        if isinstance(value, np.void):
            value = np.frombuffer(value.tobytes(), np.uint8)
        if isinstance(value, np.ndarray):
            values[field.name] = {"array": len(arrays)}
            arrays.append(value)
        else:
            values[field.name] = {"value": value}
    return {"item": type(item).__name__, "fields": values}, arrays


def unpack(body: Json, arrays: Arrays) -> Item:
    """Put an item together again."""
    kind = _KINDS.get(body["item"])
    if kind is None:
        raise ProtocolError(f"item {body['item']!r}, expected one of {', '.join(_KINDS)}")
    values: Json = {}
    for name, entry in body["fields"].items():
        value = arrays[entry["array"]] if "array" in entry else entry["value"]
        if name == "header":
            value = np.frombuffer(value.tobytes(), _HEADERS[value.nbytes])[0]
        elif name == "key":
            value = ImageKey(*value)
        values[name] = value
    if "kspace" in values:
        values["kspace"] = _among_zeros(values["kspace"], values["mask"])
    item: Item = kind(**values)
    return item


def _among_zeros(rows: NDArray[Any], mask: NDArray[Any]) -> NDArray[Any]:
    """Return k-space (coils, x, ky) of the rows (n, coils, x) that a mask (ky,) marks."""
    kspace = np.zeros((*rows.shape[1:], mask.size), rows.dtype)
    kspace[..., mask] = rows.transpose(1, 2, 0)
    return kspace


def _view(memory: mmap.mmap | bytes, place: Json) -> NDArray[Any]:
    count = int(np.prod(place["shape"], dtype=np.int64))
    if not count:
        return np.zeros(place["shape"], place["dtype"])  # may lie behind the end of the memory
    flat = np.frombuffer(memory, place["dtype"], count, place["offset"])
    return flat.reshape(place["shape"])


def _bytes_of(array: NDArray[Any]) -> memoryview:
    if array.dtype.hasobject:
        raise ValueError("an OBJECT array cannot go to another process")
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _anonymous_file(size: int) -> int:
    if hasattr(os, "memfd_create"):
        file = os.memfd_create("mnet")
    else:  # not Linux: a file without a name
        with tempfile.TemporaryFile() as temporary:
            file = os.dup(temporary.fileno())
    os.ftruncate(file, size)
    return file
