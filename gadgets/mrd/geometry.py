"""What an MRD header says about where data belong: matrix, field of view, limits, loops.

A ky *counter* is ``kspace_encode_step_1`` as on the wire; a ky *row* is its place in the encoded
matrix, the centre of k-space at ``ny // 2``. The text is read tolerantly: names are matched without
their namespace, because hosts write headers with and without one, and text may end with the NUL
that some of them count in. `gadgets.mrd.header_xml` writes it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, overload
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np
from numpy.typing import NDArray

from ..errors import HeaderError

Ints = NDArray[np.int64]

NAMESPACE = "http://www.ismrm.org/ISMRMRD"
SCAN_TOKEN = "mnet_scan_token"  # the userParameterString that pairs a scan with its sequence
NOISE_BANDWIDTH = 0.793  # the value that stock noise adjustment assumes where a header has none
LARGEST = 65535  # counters and matrix sizes are 16 bits wide on the wire
SMALLEST = 4  # pixels: coil maps are estimated from as many lines at least


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceSpace:
    """A Cartesian encoding space beside the imaging one, in which reference lines may be."""

    encoded: tuple[int, int]  # matrix x, y
    encoded_fov: tuple[float, float]  # mm
    center: int  # ky counter of k = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Geometry:
    """The numbers of one Cartesian 2-D scan, checked.

    A header may list several encoding spaces; the first one is the imaging one.
    Loop sizes are the largest counter plus one, and 1 where the header has no such limit.
    """

    n_coils: int | None  # receiverChannels
    encoded: tuple[int, int, int]  # matrix x, y, z; x with readout oversampling
    recon: tuple[int, int, int]  # matrix x, y, z of the image
    encoded_fov: tuple[float, float, float]  # mm
    recon_fov: tuple[float, float, float]  # mm
    ky_min: int  # smallest, largest and central ky counter
    ky_max: int
    center: int
    n_slices: int = 1
    n_contrasts: int = 1
    n_phases: int = 1
    n_repetitions: int = 1
    n_sets: int = 1
    n_averages: int = 1
    measurement_id: str = ""
    noise_dependency: str | None = None  # measurement id of the noise scan to use
    relative_receiver_noise_bandwidth: float = NOISE_BANDWIDTH
    channel_labels: tuple[str, ...] = ()  # by coil number
    tr_ms: float | None = None
    user: Mapping[str, str] = field(default_factory=dict)  # all user parameters, as text
    references: Mapping[int, ReferenceSpace] = field(default_factory=dict)  # by encoding_space_ref
    notes: tuple[str, ...] = ()  # what stands in place of something that the header leaves out

    @classmethod
    def parse(cls, xml: bytes | str) -> "Geometry":
        """Read a header; elements that are not known here are passed over.

        Without limits of kspace_encoding_step_1, every row of the encoded matrix is a counter and
        the centre is ``ny // 2``; `notes` then says so. An encoded z of 2 whose image has one
        partition and whose limits name no other is 2-D: Pulseq writes it so on Siemens scanners.

        Raises HeaderError where the text is no MRD header, lacks what is needed, contradicts
        itself, or describes a scan that is not supported: 3-D, multiband, or a trajectory that is
        not Cartesian.
        """
        root = parse(xml)
        encoding = find(root, "encoding")
        _refuse_unsupported(encoding)
        limits = encoding.find("encodingLimits")
        limits = Element("encodingLimits") if limits is None else limits
        ky, n_ky = limits.find("kspace_encoding_step_1"), _matrix(encoding, "encodedSpace")[1]
        ky_min, ky_max, center = (
            (0, n_ky - 1, n_ky // 2)
            if ky is None
            else tuple(_integer(ky, name) for name in ("minimum", "maximum", "center"))
        )
        system = "acquisitionSystemInformation"
        geometry = cls(
            n_coils=(
                _integer(root, f"{system}/receiverChannels")
                if _has(root, f"{system}/receiverChannels")
                else None
            ),
            encoded=_matrix(encoding, "encodedSpace"),
            recon=_matrix(encoding, "reconSpace"),
            encoded_fov=_fov(encoding, "encodedSpace"),
            recon_fov=_fov(encoding, "reconSpace"),
            ky_min=ky_min,
            ky_max=ky_max,
            center=center,
            n_slices=_count(limits, "slice"),
            n_contrasts=_count(limits, "contrast"),
            n_phases=_count(limits, "phase"),
            n_repetitions=_count(limits, "repetition"),
            n_sets=_count(limits, "set"),
            n_averages=_count(limits, "average"),
            measurement_id=text(root, "measurementInformation/measurementID") or "",
            noise_dependency=_noise_dependency(root),
            relative_receiver_noise_bandwidth=_number(
                root, f"{system}/relativeReceiverNoiseBandwidth", NOISE_BANDWIDTH
            ),
            channel_labels=_channel_labels(root),
            tr_ms=(
                _number(root, "sequenceParameters/TR")
                if _has(root, "sequenceParameters/TR")
                else None
            ),
            user=_user_parameters(root),
            references=_references(root),
            notes=(
                ()
                if ky is not None
                else (
                    "the MRD header has no encodingLimits of kspace_encoding_step_1: "
                    f"taken to be 0 to {ky_max}, the centre at {center}",
                )
            ),
        )
        geometry._check()
        return geometry

    @property
    def n_x(self) -> int:
        """Samples along x after the readout oversampling is removed."""
        return round(self.encoded[0] * self.recon_fov[0] / self.encoded_fov[0])

    @property
    def n_ky(self) -> int:
        """Rows of the encoded matrix along ky."""
        return self.encoded[1]

    @property
    def kept(self) -> tuple[int, int]:
        """Pixels (x, y) that the reconstructed field of view keeps of the encoded one."""
        share = self.recon_fov[1] / self.encoded_fov[1]
        return self.n_x, min(max(round(self.n_ky * share), 1), self.n_ky)

    @property
    def scan_token(self) -> str | None:
        """The token that pairs this scan with its sequence, if the header carries one."""
        return self.user.get(SCAN_TOKEN) or None

    @property
    def limit_counters(self) -> Ints:
        """Counters within the limits whose row lies in the matrix, ascending."""
        first = max(self.ky_min, self.counter(0))
        last = min(self.ky_max, self.counter(self.n_ky - 1))
        return np.arange(first, last + 1, dtype=np.int64)

    @overload
    def row(self, counter: NDArray[np.integer[Any]]) -> Ints: ...
    @overload
    def row(self, counter: int | np.integer[Any]) -> int: ...
    def row(self, counter: NDArray[np.integer[Any]] | int | np.integer[Any]) -> Ints | int:
        """Give the matrix row of a ky counter: ``counter + ny // 2 - center``."""
        return _signed(counter) + (self.n_ky // 2 - self.center)

    @overload
    def counter(self, row: NDArray[np.integer[Any]]) -> Ints: ...
    @overload
    def counter(self, row: int | np.integer[Any]) -> int: ...
    def counter(self, row: NDArray[np.integer[Any]] | int | np.integer[Any]) -> Ints | int:
        """Give the ky counter of a matrix row, the inverse of `row`."""
        return _signed(row) - (self.n_ky // 2 - self.center)

    def _check(self) -> None:
        if not 0 <= self.ky_min <= self.center <= self.ky_max <= LARGEST:
            raise HeaderError(
                "kspace_encoding_step_1 limits: expected 0 <= minimum <= center <= maximum <= "
                f"{LARGEST}, got minimum {self.ky_min}, center {self.center}, "
                f"maximum {self.ky_max}"
            )
        if self.ky_max - self.ky_min >= self.n_ky:
            raise HeaderError(
                f"kspace_encoding_step_1 limits: {self.ky_min} to {self.ky_max} are "
                f"{self.ky_max - self.ky_min + 1} counters, more than the {self.n_ky} rows of "
                "encodedSpace"
            )
        for axis, encoded, recon in zip("xy", self.encoded_fov, self.recon_fov, strict=False):
            if recon > encoded * 1.0001:  # hosts rewrite 4.6 as 4.5999999
                raise HeaderError(
                    f"field of view along {axis}: reconSpace has {recon:g} mm, more than the "
                    f"{encoded:g} mm of encodedSpace"
                )
        if self.n_coils is not None and self.n_coils < 1:
            raise HeaderError(f"receiverChannels: expected at least 1, got {self.n_coils}")
        if self.n_x < 1:
            raise HeaderError(
                f"encodedSpace: {self.encoded[0]} samples over {self.encoded_fov[0]:g} mm leave "
                f"none in the {self.recon_fov[0]:g} mm of reconSpace"
            )
        if min(self.n_x, self.n_ky) < SMALLEST:
            raise HeaderError(
                f"encodedSpace: expected at least {SMALLEST} x {SMALLEST} pixels, got {self.n_x} x "
                f"{self.n_ky}"
            )


@overload
def _signed(value: NDArray[np.integer[Any]]) -> Ints: ...
@overload
def _signed(value: int | np.integer[Any]) -> int: ...
def _signed(value: NDArray[np.integer[Any]] | int | np.integer[Any]) -> Ints | int:
    """Widen a counter: as u16, as it comes from a header, it would wrap at zero."""
    return value.astype(np.int64) if isinstance(value, np.ndarray) else int(value)


def parse(xml: bytes | str) -> Element:
    """Give the root of a header, its names without namespaces; HeaderError if it is none."""
    try:
        root = ElementTree.fromstring(xml.rstrip(b"\0" if isinstance(xml, bytes) else "\0"))  # type: ignore[arg-type]
    # also encodings that the parser does not take, such as utf-7 and idna
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise HeaderError(f"the MRD header is no XML: {error}; it begins {xml[:60]!r}") from error
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    if root.tag != "ismrmrdHeader":
        raise HeaderError(f"the MRD header: expected <ismrmrdHeader>, got <{root.tag}>")
    return root


def serialise(root: Element) -> bytes:
    """Give the text of a header whose names are without their namespace."""
    # A plain attribute, because a prefix on every name would be lost on readers without namespaces.
    root.set("xmlns", NAMESPACE)
    document: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return document


def find(parent: Element, path: str) -> Element:
    """Give the first element at a path; HeaderError if there is none."""
    element = parent.find(path)
    if element is None:
        raise HeaderError(f"the MRD header has no {path} in <{parent.tag}>")
    return element


def _has(parent: Element, path: str) -> bool:
    """Say whether an element with text stands at a path."""
    return text(parent, path) is not None


def text(parent: Element, path: str) -> str | None:
    """Give the text at a path, stripped; None if it is missing or empty."""
    return (parent.findtext(path) or "").strip() or None


def _number(parent: Element, path: str, default: float | None = None) -> float:
    """Give the finite number at a path; HeaderError if it is missing and has no default."""
    value = text(parent, path)
    if value is None:
        if default is None:
            raise HeaderError(f"the MRD header has no {path} in <{parent.tag}>")
        return float(default)
    try:
        result = float(value)
    except ValueError:
        result = math.nan
    if not math.isfinite(result):
        raise HeaderError(f"the MRD header's {path}: expected a number, got {value!r}")
    return result


def _integer(parent: Element, path: str, default: int | None = None) -> int:
    """Give the whole number at a path; HeaderError if it is missing and has no default."""
    result = _number(parent, path, default)
    if not result.is_integer():
        raise HeaderError(f"the MRD header's {path}: expected a whole number, got {result:g}")
    return int(result)


def _user_parameters(root: Element) -> dict[str, str]:
    """Collect all user parameters, whatever their type, as text."""
    return {
        name: text(parameter, "value") or ""
        for parameter in root.iterfind("userParameters/*")
        if (name := text(parameter, "name"))
    }


def _refuse_unsupported(encoding: Element) -> None:
    trajectory = text(encoding, "trajectory") or "cartesian"
    if trajectory.lower() != "cartesian":
        raise HeaderError(f"trajectory: only cartesian is supported, got {trajectory!r}")
    n_z = _integer(encoding, "encodedSpace/matrixSize/z", 1)
    step_2 = "encodingLimits/kspace_encoding_step_2"
    n_step_2 = (
        1 + _integer(encoding, f"{step_2}/maximum", 0) - _integer(encoding, f"{step_2}/minimum", 0)
    )
    n_image = _integer(encoding, "reconSpace/matrixSize/z", 1)
    if n_step_2 > 1 or n_image > 1 or n_z > 2:
        raise HeaderError(
            "3-D encoding is not supported: expected one partition, got encoded z "
            f"{n_z}, {n_image} in the image and {n_step_2} values of kspace_encoding_step_2"
        )
    for name in ("multiband_factor", "multibandFactor"):
        factor = _integer(encoding, f"parallelImaging/multiband/{name}", 1)
        if factor > 1:
            raise HeaderError(f"multiband is not supported: expected factor 1, got {factor}")


def _matrix(encoding: Element, space: str) -> tuple[int, int, int]:
    x, y, z = (_integer(encoding, f"{space}/matrixSize/{axis}") for axis in "xyz")
    if not all(1 <= size <= LARGEST for size in (x, y, z)):
        raise HeaderError(f"{space}/matrixSize: expected 1 to {LARGEST}, got {x} x {y} x {z}")
    return x, y, z


def _fov(encoding: Element, space: str) -> tuple[float, float, float]:
    x, y, z = (_number(encoding, f"{space}/fieldOfView_mm/{axis}") for axis in "xyz")
    if not (x > 0 and y > 0):
        raise HeaderError(f"{space}/fieldOfView_mm: expected x and y above 0, got {x:g} and {y:g}")
    return x, y, z


def _count(limits: Element, name: str) -> int:
    return 1 + _integer(limits, f"{name}/maximum", 0)


def _references(root: Element) -> dict[int, ReferenceSpace]:
    """Describe the encoding spaces after the first; those that are of no use are left out."""
    found = {}
    for number, encoding in enumerate(root.findall("encoding")):
        try:
            (x, y, _), (fov_x, fov_y, _) = (
                _matrix(encoding, "encodedSpace"),
                _fov(encoding, "encodedSpace"),
            )
            center = _integer(encoding, "encodingLimits/kspace_encoding_step_1/center", y // 2)
            _refuse_unsupported(encoding)
        except HeaderError:
            continue
        if number:
            found[number] = ReferenceSpace(
                encoded=(x, y), encoded_fov=(fov_x, fov_y), center=center
            )
    return found


def _noise_dependency(root: Element) -> str | None:
    for dependency in root.iterfind("measurementInformation/measurementDependency"):
        if (text(dependency, "dependencyType") or "").lower() == "noise":
            return text(dependency, "measurementID")
    return None


def _channel_labels(root: Element) -> tuple[str, ...]:
    labels = [
        (_integer(label, "coilNumber"), text(label, "coilName") or "")
        for label in root.iterfind("acquisitionSystemInformation/coilLabel")
    ]
    return tuple(name for _, name in sorted(labels))
