"""Reading HDF5 in a process of its own, with limits of time and memory.

One zeroed block in a file can keep HDF5's library in its own loop for ever, where no exception and
no signal handler of Python gets in. So a task, which is a function of an open file, runs in a child
that the system ends when it has used up its processor time, and that cannot take more memory than
the file explains. A task gives JSON and arrays; arrays cross in anonymous memory that nobody can
change any more: one copy in the child, none here, and nothing is unpickled.

The child is started once for this process and serves every file, which costs about 0.3 s, and then
some ten microseconds a question. After a file that it could not read it is started anew.
"""

import fcntl
import importlib
import json
import mmap
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ProtocolError

Json = dict[str, Any]
Array = NDArray[Any]
Piece = Array | Sequence[Array]  # a list is laid end to end
BASE_S, PER_BYTE_S = 5.0, 1 / 20e6  # of processor time: sound files are read 10 times as fast
BASE_BYTES, PER_BYTE = 1 << 30, 6  # of memory, beside what checked shapes need
SILENCE = 10.0  # times the processor time may pass without an answer, on a slow or busy machine
_LENGTHS = struct.Struct("<QQ")  # of JSON, of the arrays' memory
_LONGEST = 1 << 30  # bytes of JSON
_ALIGN = 64
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_KINDS = frozenset("biufc")


def read_apart(
    path: Path, task: str, *, base_s: float = BASE_S, **arguments: Any
) -> tuple[Json, list[Array]]:
    """Run a task, `package.module:function`, on a file; return what it gives.

    Raises
    ------
    ProtocolError
        If the file is damaged, or reading it takes longer or more memory than a sound one does.
        The message names the file.
    """
    return _child(os.getpid()).ask(path, task, arguments, base_s)


@cache  # by process: a fork must not use its parent's
def _child(_: int) -> "_Child":
    return _Child()


class _Child:
    """The process, started when it is first needed; one thread asks at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._sock: socket.socket | None = None

    def ask(
        self, path: Path, task: str, arguments: Json, base_s: float
    ) -> tuple[Json, list[Array]]:
        size = path.stat().st_size
        cpu_s = base_s + size * PER_BYTE_S
        question = {
            "path": str(path.absolute()),  # the child was started where this process was then
            "task": task,
            "arguments": arguments,
            "cpu_s": cpu_s,
            "memory": BASE_BYTES + PER_BYTE * size,
        }
        with self._lock:
            sock = self._started()
            sock.settimeout(60 + SILENCE * cpu_s)
            try:
                _send(sock, json.dumps(question).encode(), None)
                answer, arrays = _receive(sock)
            except (EOFError, OSError, ValueError) as error:
                why = self._ended(cpu_s, error)
                raise ProtocolError(f"{path} cannot be read as HDF5: {why}") from None
        if "broken" in answer:
            raise ProtocolError(f"{path} cannot be read as HDF5: {answer['broken']}")
        if "error" in answer:
            raise ProtocolError(f"{path}: {answer['error']}")
        return answer, arrays

    def _started(self) -> socket.socket:
        if self._sock is None or self._process is None or self._process.poll() is not None:
            ours, theirs = socket.socketpair()
            with theirs:
                module = f"{__package__}.hdf5_process"
                command = [sys.executable, "-m", module, str(theirs.fileno())]
                self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
            self._sock = ours
            self._finalizer = weakref.finalize(self, _end, ours, self._process, os.getpid())
        return self._sock

    def _ended(self, cpu_s: float, error: Exception) -> str:
        """End the process, and say what it died of."""
        assert self._process is not None
        silent = isinstance(error, TimeoutError)
        if silent or isinstance(error, ValueError):
            self._process.kill()
        code = self._process.wait()
        self._finalizer()
        self._sock = self._process = None
        if code == -signal.SIGXCPU or silent:
            return f"reading takes more than {cpu_s:.0f} s of processor time; it is damaged"
        return f"reading ended HDF5's process (status {code}: {error}); it is damaged"


def _end(sock: socket.socket, process: "subprocess.Popen[bytes]", parent: int) -> None:
    """End a child with its parent, but not with a fork of that."""
    sock.close()
    if os.getpid() == parent:
        process.kill()
        process.wait()


def allow_memory(n_bytes: int) -> None:
    """Let this process take so much more, up to half of the machine's; only a child is limited."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft == resource.RLIM_INFINITY:
        return
    half = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    _lower(resource.RLIMIT_AS, max(soft, min(soft + n_bytes, half)))


def serve(sock: socket.socket) -> None:
    """Answer questions until the other end closes."""
    while True:
        try:
            question, _ = _receive(sock)
        except (EOFError, OSError):
            return
        _limit(question["cpu_s"], question["memory"])
        memory = None
        try:
            answer, pieces = _run(question)
            layout, memory = _packed(pieces)
            answer = {**answer, "arrays": layout}
        except ProtocolError as error:
            answer = {"error": str(error)}
        except MemoryError:
            answer = {"broken": "it needs more memory than its size explains"}
        except Exception as error:  # the boundary of the process: whatever a damaged file brings
            answer = {"broken": f"{type(error).__name__}: {error}"}
        try:
            _send(sock, json.dumps(answer).encode(), memory)
        except OSError:
            return
        finally:
            if memory is not None:
                os.close(memory)


def _run(question: Json) -> tuple[Json, Sequence[Piece]]:
    import h5py  # not before it is needed: a parent needs none

    module, _, name = question["task"].partition(":")
    task = getattr(importlib.import_module(module), name)
    with h5py.File(question["path"], "r") as file:
        answer: tuple[Json, Sequence[Piece]] = task(file, **question["arguments"])
    return answer


def _limit(cpu_s: float, memory: int) -> None:
    """Limit what one question may take, beside what is taken already."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _lower(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime + cpu_s) + 1)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    _lower(resource.RLIMIT_AS, pages * os.sysconf("SC_PAGE_SIZE") + memory)


def _lower(what: int, soft: int) -> None:
    """Set a limit, below that of whoever started this process."""
    _, hard = resource.getrlimit(what)
    resource.setrlimit(what, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def _packed(pieces: Sequence[Piece]) -> tuple[list[Json], int | None]:
    """Lay arrays into anonymous memory that nobody can change, and say where."""
    layout, size = [], 0
    for piece in pieces:
        parts = [piece] if isinstance(piece, np.ndarray) else list(piece)
        shape = (
            list(parts[0].shape)
            if isinstance(piece, np.ndarray)
            else [sum(part.size for part in parts)]
        )
        kind = parts[0].dtype.newbyteorder("<").str if parts else "<f4"
        layout.append({"shape": shape, "dtype": kind, "offset": size})
        n_bytes = sum(part.nbytes for part in parts)
        size += -(-n_bytes // _ALIGN) * _ALIGN
    if not size:
        return layout, None
    allow_memory(size)
    file = os.memfd_create("mnet-hdf5", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(file, size)
    with mmap.mmap(file, size) as memory:
        for piece, place in zip(pieces, layout, strict=True):
            view = _view(memory, place)
            if isinstance(piece, np.ndarray):
                view[...] = piece
            elif view.size:
                np.concatenate([part.reshape(-1) for part in piece], out=view)
            del view
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
    return layout, file


def _send(sock: socket.socket, text: bytes, memory: int | None) -> None:
    size = 0 if memory is None else os.fstat(memory).st_size
    files = [] if memory is None else [memory]
    head = _LENGTHS.pack(len(text), size)
    sent = socket.send_fds(sock, [head], files)
    sock.sendall(head[sent:] + text)


def _receive(sock: socket.socket) -> tuple[Json, list[Array]]:
    """Read one message; EOFError at the end, ValueError for what no child of ours says."""
    head, files, _, _ = socket.recv_fds(sock, _LENGTHS.size, 1)
    try:
        head += _exactly(sock, _LENGTHS.size - len(head))
        length, size = _LENGTHS.unpack(head)
        if length > _LONGEST:
            raise ValueError(f"{length} bytes of JSON")
        body = json.loads(_exactly(sock, length))
        memory: mmap.mmap | bytes = b""
        if size:
            if not files or fcntl.fcntl(files[0], fcntl.F_GET_SEALS) & _SEALS != _SEALS:
                raise ValueError("memory that can still be changed")
            memory = mmap.mmap(files[0], size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
    finally:
        for file in files:
            os.close(file)
    return body, [_view(memory, place) for place in body.pop("arrays", [])]


def _view(memory: mmap.mmap | bytes, place: Json) -> Array:
    dtype, shape = np.dtype(place["dtype"]), tuple(place["shape"])
    if dtype.kind not in _KINDS:
        raise ValueError(f"an array of {dtype}")
    count = int(np.prod(shape, dtype=np.int64))
    if not count:
        return np.zeros(shape, dtype)
    return np.frombuffer(memory, dtype, count, place["offset"]).reshape(shape)


def _exactly(sock: socket.socket, n: int) -> bytes:
    data = bytearray()
    while len(data) < n:
        part = sock.recv(min(n - len(data), 1 << 20))
        if not part:
            raise EOFError("the other process is gone")
        data += part
    return bytes(data)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    serve(socket.socket(fileno=int(sys.argv[1])))
