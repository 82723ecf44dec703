"""The folder in which a host keeps its records, and what it does where one cannot be made."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from ..errors import ConfigError, GadgetsError
from ..limits.settings import Unrecorded
from .writer import MAGIC, Record

log = logging.getLogger(__name__)
_PROBE = ".probe"


class RecordFolder:
    """Starts the records of a host's scans.

    Where no record can be made, the scan goes on without one, and `lost` is called. With `refuse`
    it fails instead; with `not-ready`, `trouble` says so until a record can be made again.
    """

    def __init__(
        self,
        root: Path,
        unrecorded: Unrecorded = "go-on",
        lost: Callable[[], None] = lambda: None,
    ) -> None:
        self.root = root
        self._unrecorded = unrecorded
        self._lost = lost
        self._trouble = ""

    def require_writable(self) -> None:
        """Raise ConfigError where no record can be made."""
        why = self._probe()
        if why:
            raise ConfigError(
                f"records: nothing can be written in {self.root}: {why}; free some space, let this "
                "user write there (chown, chmod u+rwx), or name another folder"
            )

    def new(self, name: str) -> Record | None:
        """Start a record; None where that is impossible and the scan goes on.

        Raises GadgetsError where it is impossible and scans without a record are refused.
        """
        try:
            record = Record.create(self.root, name, on_stop=self._stopped)
        except OSError as error:
            log.error("this scan is not recorded: %s", error)
            self._stopped(str(error))
            if self._unrecorded == "refuse":
                raise GadgetsError(
                    f"this scan cannot be recorded ({error}), and this host takes none that is not "
                    "(mnet serve --unrecorded refuse)"
                ) from error
            return None
        self._trouble = ""
        return record

    def trouble(self) -> str:
        """Say why a scan would not be recorded; "" where it would, or need not be."""
        if self._trouble and self._unrecorded != "go-on":
            why = self._probe()  # somebody may have made room
            self._trouble = f"scans are not recorded: {why}" if why else ""
        return self._trouble if self._unrecorded != "go-on" else ""

    def _stopped(self, why: str) -> None:
        self._trouble = f"scans are not recorded: {why}"
        self._lost()

    def _probe(self) -> str:
        """Make what a record needs, and take it away again; returns what went wrong."""
        folder = self.root / f"{_PROBE}-{id(self)}"
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir(mode=0o700)
            try:
                (folder / "probe").write_bytes(MAGIC)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        except OSError as error:
            return str(error)
        return ""
