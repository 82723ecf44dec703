"""How a scan was measured, from its MRD header; nothing in it names a patient."""

from dataclasses import dataclass
from xml.etree.ElementTree import Element

from ..mrd.geometry import parse, text

POSITIONS = ("HFP", "HFS", "HFDR", "HFDL", "FFP", "FFS", "FFDR", "FFDL")


@dataclass(frozen=True, slots=True, kw_only=True)
class Technique:
    """What a header may say of a measurement; None where it does not."""

    tr_ms: float | None = None
    te_ms: float | None = None  # of the first echo
    flip_deg: float | None = None
    field_t: float | None = None
    frequency_mhz: float | None = None
    patient_position: str = ""  # one of POSITIONS

    @classmethod
    def of(cls, header: bytes) -> "Technique":
        """Read an MRD header; HeaderError if it is none. What is no number is left out."""
        root = parse(header)
        frequency = _number(root, "experimentalConditions/H1resonanceFrequency_Hz")
        position = (text(root, "measurementInformation/patientPosition") or "").upper()
        return cls(
            tr_ms=_number(root, "sequenceParameters/TR"),
            te_ms=_number(root, "sequenceParameters/TE"),
            flip_deg=_number(root, "sequenceParameters/flipAngle_deg"),
            field_t=_number(root, "acquisitionSystemInformation/systemFieldStrength_T"),
            frequency_mhz=None if frequency is None else frequency / 1e6,
            patient_position=position if position in POSITIONS else "",
        )


def _number(root: Element, path: str) -> float | None:
    try:
        value = float(text(root, path) or "")
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None
