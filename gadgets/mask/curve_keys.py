"""CURVE keys of the mask channel: one folder per party, one 40-character Z85 key per file.

::

    KEYS/host/server.key          secret, mode 0600: for `mnet serve` and `mnet maskd`
    KEYS/host/server.pub
    KEYS/host/allowed/NAME.pub    the clients that may connect
    KEYS/NAME/client.key          secret, mode 0600: hand this folder to the scanner
    KEYS/NAME/client.pub
    KEYS/NAME/server.pub          how the scanner knows the host

A vendor may make its own pair and send only ``client.pub``, which goes into ``allowed``. That may
also be a file, one ``KEY NAME`` per line. Nothing is ever overwritten. CURVE: RFC 26/CurveZMQ.
"""

import logging
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import zmq
from typing_extensions import Self

from ..errors import ConfigError

HOST = "host"
_KEY_LENGTH = 40  # Z85 characters of 32 bytes
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_Z85 = re.compile(rb"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerKeys:
    """The binder's secret key, and whom it lets in."""

    secret: bytes = field(repr=False)
    allowed: Path

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a host's folder; ConfigError for a missing, open or broken key or allow-list."""
        keys = cls(secret=_read_secret(folder / "server.key"), allowed=folder / "allowed")
        if not keys.clients():
            raise ConfigError(
                f"{keys.allowed} allows nobody: expected at least one NAME.pub; "
                "`mnet keys --client NAME` writes it"
            )
        return keys

    def clients(self) -> dict[bytes, str]:
        """Return the names of the public keys that may connect now, read anew at every call."""
        entries = (
            [(path, path.stem) for path in sorted(self.allowed.glob("*.pub"))]
            if self.allowed.is_dir()
            else [(self.allowed, "")]
        )
        found: dict[bytes, str] = {}
        for path, name in entries:
            try:
                found |= _public_keys(path.read_bytes(), name)
            except (OSError, ValueError) as error:  # one bad file must not let out the others
                log.error("allow-list: %s is passed over: %s", path, error)
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientKeys:
    """A client's secret key, and the only host it talks to."""

    secret: bytes = field(repr=False)
    server: bytes

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a client's folder; ConfigError for a missing, open or broken key."""
        path = folder / "server.pub"
        try:
            [server] = _public_keys(path.read_bytes(), "")
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: expected the host's public key: {error}") from error
        return cls(secret=_read_secret(folder / "client.key"), server=server)

    @property
    def public(self) -> bytes:
        """The public key, Z85."""
        public: bytes = zmq.curve_public(self.secret)
        return public


Keys = ServerKeys | ClientKeys


def make_keys(folder: Path, clients: Iterable[str] = ()) -> list[Path]:
    """Make the host's keys if there are none yet, and a pair for every new client.

    Returns the folders made. Raises ConfigError, with nothing written, for a client that has keys
    already or a name that cannot be a folder's.
    """
    names = list(clients)
    host = folder / HOST
    for name in names:
        if not _NAME.fullmatch(name) or name == HOST or names.count(name) > 1:
            raise ConfigError(
                f"client {name!r}: expected different names of letters, digits, '.', '_' and '-', "
                f"and not {HOST!r}"
            )
        for taken in (folder / name, host / "allowed" / f"{name}.pub"):
            if taken.exists():
                raise ConfigError(f"{taken} exists already; keys are never overwritten")
    made = []
    if not (host / "server.key").exists():
        _write_pair(host, "server")
        (host / "allowed").mkdir(exist_ok=True)
        made.append(host)
    server = (host / "server.pub").read_bytes()
    for name in names:
        _write_pair(folder / name, "client")
        _write(folder / name / "server.pub", server, 0o644)
        public = (folder / name / "client.pub").read_bytes()
        _write(host / "allowed" / f"{name}.pub", public, 0o644)
        made.append(folder / name)
    return made


def _write_pair(folder: Path, name: str) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    public, secret = zmq.curve_keypair()
    _write(folder / f"{name}.key", secret + b"\n", 0o600)
    _write(folder / f"{name}.pub", public + b"\n", 0o644)


def _write(path: Path, content: bytes, mode: int) -> None:
    """Create a file; ConfigError if it is there."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise ConfigError(f"{path} exists already; keys are never overwritten") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)


def _read_secret(path: Path) -> bytes:
    try:
        mode, secret = stat.S_IMODE(path.stat().st_mode), path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; `mnet keys` makes keys") from error
    if mode & 0o077:
        raise ConfigError(f"{path} can be read by others (mode {mode:04o}): chmod 600 it")
    if not _Z85.fullmatch(secret):  # its content is not for a log
        raise ConfigError(f"{path} is no key: expected {_KEY_LENGTH} characters of Z85")
    return secret


def _public_keys(text: bytes, name: str) -> dict[bytes, str]:
    """Read ``KEY [NAME]`` lines; '#' starts a comment only at a line's beginning followed by ' '.

    Z85 itself uses '#', hence the space.
    """
    found = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0] == b"#":
            continue
        if not _Z85.fullmatch(words[0]):
            raise ValueError(f"line {number} is no public key of {_KEY_LENGTH} Z85 characters")
        found[words[0]] = words[1].decode(errors="replace") if len(words) > 1 else name
    return found
