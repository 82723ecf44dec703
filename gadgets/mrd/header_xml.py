"""The text of an MRD header, built and amended; `gadgets.mrd.geometry` reads it.

What is written follows the order of the ISMRMRD schema, which C++ and Python readers need.
"""

from collections.abc import Mapping, Sequence
from xml.etree.ElementTree import Element, SubElement

from .geometry import parse, serialise, text


def with_user_parameter(xml: bytes | str, name: str, value: str) -> bytes:
    """Set one userParameterString in a header and keep all else."""
    root = parse(xml)
    group = root.find("userParameters")
    if group is None:
        group = Element("userParameters")
        # The schema allows waveformInformation alone after it.
        waveforms = [i for i, child in enumerate(root) if child.tag == "waveformInformation"]
        root.insert(waveforms[0] if waveforms else len(root), group)
    for parameter in list(group):
        if text(parameter, "name") == name:
            group.remove(parameter)
    strings = [i for i, child in enumerate(group) if child.tag != "userParameterBase64"]
    parameter = Element("userParameterString")
    _put(parameter, {"name": name, "value": value})
    group.insert(strings[-1] + 1 if strings else 0, parameter)
    return serialise(root)


def header_xml(
    *,
    encoded: Sequence[int],
    encoded_fov: Sequence[float],
    recon: Sequence[int],
    recon_fov: Sequence[float],
    n_coils: int,
    ky_min: int = 0,
    ky_max: int | None = None,
    center: int | None = None,
    n_slices: int = 1,
    n_contrasts: int = 1,
    n_phases: int = 1,
    n_repetitions: int = 1,
    n_sets: int = 1,
    n_averages: int = 1,
    measurement_id: str = "",
    tr_ms: float | None = None,
    user: Mapping[str, str] | None = None,
) -> bytes:
    """Build a minimal valid header of a Cartesian 2-D scan.

    Matrices and fields of view (mm) are (x, y, z). Without limits, every row of the encoded
    matrix is a counter and the centre is ``ny // 2``.
    """
    n_ky = encoded[1]
    root = Element("ismrmrdHeader")
    if measurement_id:
        # The schema requires a position; nothing here reads it.
        _put(
            SubElement(root, "measurementInformation"),
            {"measurementID": measurement_id, "patientPosition": "HFS"},
        )
    _put(SubElement(root, "acquisitionSystemInformation"), {"receiverChannels": n_coils})
    # The schema requires the frequency; 0 says that it is not known.
    _put(SubElement(root, "experimentalConditions"), {"H1resonanceFrequency_Hz": 0})
    encoding = SubElement(root, "encoding")
    for name, matrix, fov in (
        ("encodedSpace", encoded, encoded_fov),
        ("reconSpace", recon, recon_fov),
    ):
        space = SubElement(encoding, name)
        _put(SubElement(space, "matrixSize"), dict(zip("xyz", matrix, strict=True)))
        _put(SubElement(space, "fieldOfView_mm"), dict(zip("xyz", fov, strict=True)))
    limits = SubElement(encoding, "encodingLimits")
    ky_center = n_ky // 2 if center is None else center
    _limit(
        limits, "kspace_encoding_step_1", ky_min, n_ky - 1 if ky_max is None else ky_max, ky_center
    )
    for name, count in (
        ("average", n_averages),
        ("slice", n_slices),
        ("contrast", n_contrasts),
        ("phase", n_phases),
        ("repetition", n_repetitions),
        ("set", n_sets),
    ):
        _limit(limits, name, 0, count - 1, 0)
    _put(encoding, {"trajectory": "cartesian"})
    if tr_ms is not None:
        _put(SubElement(root, "sequenceParameters"), {"TR": tr_ms})
    if user:
        group = SubElement(root, "userParameters")
        for key, value in user.items():
            _put(SubElement(group, "userParameterString"), {"name": key, "value": value})
    return serialise(root)


def _limit(limits: Element, name: str, minimum: int, maximum: int, center: int) -> None:
    values = {"minimum": minimum, "maximum": maximum, "center": center}
    _put(SubElement(limits, name), values)


def _put(parent: Element, values: Mapping[str, str | float]) -> None:
    for name, value in values.items():
        SubElement(parent, name).text = str(value)
