"""The limits of a host, with the values that it has where nobody says otherwise."""

from dataclasses import dataclass, fields
from typing import Literal

from ..errors import ConfigError

Unrecorded = Literal["go-on", "not-ready", "refuse"]  # what a scan does that cannot be recorded
UNRECORDED: tuple[Unrecorded, ...] = ("go-on", "not-ready", "refuse")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one client may take of a host; ConfigError for what leaves nothing."""

    sessions: int = 32  # connections at the same time; another one is refused in words
    header_s: float = 60.0  # of silence until a session without MRD header ends
    scan_s: float = 900.0  # of silence until a scan ends: sequences pause
    stall_s: float = 30.0  # without taking a byte until a peer counts as gone, and its scan ends
    matrix: int = 4096  # encoded samples along x, and rows along ky
    coils: int = 256  # of a line
    samples: int = 32768  # of a line; those of noise need not fit the matrix
    memory_gb: float = 8.0  # for the image of a scan, all that is made of its lines included
    queue_gb: float = 2.0  # of a scan that may wait for its reconstruction before its lines do

    def __post_init__(self) -> None:
        """Refuse what is not above zero."""
        for one in fields(self):
            value = getattr(self, one.name)
            if not value > 0:
                raise ConfigError(f"limit {one.name}: expected more than 0, got {value}")


DEFAULT = Limits()
