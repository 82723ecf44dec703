"""Noise covariances on disk, for later scans that name the noise measurement in their header.

A measurement's id often holds the patient's, so a file is named after the id's hash and holds
nothing but the covariance, its dwell time and the coils' labels. Files are JSON, readable by their
owner alone, written whole or not at all; beyond `keep` of them the oldest go.
"""

import hashlib
import json
import logging
import math
import os
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, GadgetError

log = logging.getLogger(__name__)
KEEP = 256  # measurements
LARGEST = 16 << 20  # bytes of a file, enough for 512 coils
SUFFIX = ".noise.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """What a noise measurement says of the coils."""

    covariance: NDArray[np.complex64]  # (coils, coils), E[n n^H] of one complex sample
    dwell_us: float  # 0 where it is not known
    labels: tuple[str, ...]  # by coil, all different


class Unusable(GadgetError):  # noqa: N818  it says what happened
    """The noise measurement that a header names cannot serve this scan."""


def matched(noise: Noise, labels: Sequence[str]) -> Noise:
    """Return the noise of the coils with these labels, in their order.

    The noise may have coils that the scan has not. Raises Unusable in all other cases.
    """
    if not labels or len(set(labels)) != len(labels) or not set(labels) <= set(noise.labels):
        raise Unusable(
            f"the scan has coils {', '.join(labels) or 'without labels'}, the stored noise "
            f"{', '.join(noise.labels)}"
        )
    order = [noise.labels.index(label) for label in labels]
    covariance = noise.covariance[np.ix_(order, order)]
    return Noise(covariance=covariance, dwell_us=noise.dwell_us, labels=tuple(labels))


def default_folder() -> Path:
    """Return where the user's host keeps noise: below XDG_STATE_HOME, or ~/.local/state.

    Raises ConfigError for a user without a home.
    """
    state = os.environ.get("XDG_STATE_HOME", "")
    try:
        return (Path(state) if state else Path.home() / ".local" / "state") / "mnet" / "noise"
    except RuntimeError as error:
        raise ConfigError(f"{error}: say --noise FOLDER") from error


class NoiseStore:
    """Covariances by measurement id, in a folder that is made when it is first needed."""

    def __init__(self, folder: Path, keep: int = KEEP) -> None:
        self._folder = folder
        self._keep = keep

    def get(self, measurement_id: str) -> Noise | None:
        """Return what is stored of a measurement; None if nothing is, or its file is broken."""
        path = self._path(measurement_id)
        try:
            if path.stat().st_size > LARGEST:
                raise ValueError(f"larger than {LARGEST} bytes")
            return from_json(path.read_text("utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            log.warning("stored noise %s cannot be read and is not used: %s", path, error)
            return None

    def put(self, measurement_id: str, noise: Noise) -> None:
        """Store a measurement's noise in place of any older one; GadgetError if it cannot be."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            path = self._path(measurement_id)
            handle, draft = tempfile.mkstemp(dir=self._folder, suffix=".draft")  # mode 0600
            try:
                with os.fdopen(handle, "w", encoding="utf-8") as file:
                    file.write(to_json(noise))
                    file.flush()
                    os.fsync(file.fileno())
                Path(draft).replace(path)
            except BaseException:
                Path(draft).unlink(missing_ok=True)
                raise
            self._forget()
        except OSError as error:
            raise GadgetError(f"noise cannot be stored: {error}") from error

    def _path(self, measurement_id: str) -> Path:
        return self._folder / (hashlib.sha256(measurement_id.encode()).hexdigest() + SUFFIX)

    def _forget(self) -> None:
        """Remove the oldest files beyond `keep`; another host may do the same at the same time."""
        ages = []
        for path in self._folder.glob("*" + SUFFIX):
            with suppress(FileNotFoundError):
                ages.append((path.stat().st_mtime_ns, path))
        for _, path in sorted(ages, reverse=True)[self._keep :]:
            path.unlink(missing_ok=True)


def to_json(noise: Noise) -> str:
    """Write noise as text; ValueError where a number is not finite."""
    document = {
        "labels": noise.labels,
        "dwell_us": noise.dwell_us,
        "real": noise.covariance.real.tolist(),
        "imaginary": noise.covariance.imag.tolist(),
    }
    return json.dumps(document, allow_nan=False)


def from_json(text: str) -> Noise:
    """Read what `to_json` wrote; ValueError, KeyError or TypeError for anything else."""
    document = json.loads(text)
    real, imaginary = (np.array(document[part], float) for part in ("real", "imaginary"))
    labels, dwell_us = document["labels"], float(document["dwell_us"])
    n = len(labels)
    if not n or not all(isinstance(label, str) for label in labels) or len(set(labels)) != n:
        raise ValueError("labels: expected different texts")
    if real.shape != (n, n) or imaginary.shape != (n, n):
        raise ValueError(f"covariance: expected {n} x {n}, got {real.shape}, {imaginary.shape}")
    if not (np.abs([real, imaginary]) < np.finfo(np.float32).max).all():
        raise ValueError("covariance: expected finite numbers")
    covariance = (real + 1j * imaginary).astype(np.complex64)
    if np.abs(covariance - covariance.conj().T).max() > 1e-5 * np.abs(covariance).max():
        raise ValueError("covariance: expected a Hermitian matrix")
    if not (math.isfinite(dwell_us) and dwell_us >= 0):
        raise ValueError(f"dwell_us: expected 0 or more, got {dwell_us}")
    return Noise(covariance=covariance, dwell_us=dwell_us, labels=tuple(labels))
