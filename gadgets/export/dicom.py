"""MRD images as DICOM files of the class MR Image Storage, one file an image.

Attributes and their types: DICOM PS3.3, A.4 (MR Image IOD) and C.8.3.1. Nothing of a patient or a
study is written but what the caller passes in `Identity`; UIDs are drawn anew.
"""

import importlib.metadata
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ConfigError
from ..mrd.items import Image
from ..steps.image_finish import PHASE
from .placement import Floats, Placement
from .series import Series, Stored, series_of, stored
from .technique import Technique

if TYPE_CHECKING:
    from pydicom import Dataset

MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
_LONGEST = 10240  # characters of a comment (LT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Whose images these are, as the caller says; what is empty stays empty in the files.

    ConfigError where a value is none of its kind.
    """

    patient_name: str = ""  # FAMILY^GIVEN
    patient_id: str = ""
    birth_date: str = ""  # YYYYMMDD
    sex: str = ""  # M, F or O
    study_uid: str = ""  # of a study that these images belong to; drawn anew without
    study_date: str = ""  # YYYYMMDD
    study_id: str = ""
    accession_number: str = ""
    description: str = ""  # of the study

    def __post_init__(self) -> None:
        for name in ("birth_date", "study_date"):
            self._must(name, r"\d{8}|", "YYYYMMDD")
        self._must("sex", "[MFO]|", "M, F or O")
        self._must("study_uid", r"[0-9]+(\.[0-9]+)+|", "a UID, digits and dots, at most 64")
        for field in fields(self):
            longest = 16 if field.name in ("study_id", "accession_number") else 64
            value = getattr(self, field.name)
            if len(value) > longest or "\\" in value or not value.isprintable():
                raise ConfigError(
                    f"{_option(field.name)} is {value!r}, expected at most {longest} characters "
                    "without a backslash"
                )

    def _must(self, name: str, pattern: str, expected: str) -> None:
        value = getattr(self, name)
        if not re.fullmatch(pattern, value):
            raise ConfigError(f"{_option(name)} is {value!r}, expected {expected}")


NOBODY = Identity()


def require() -> None:
    """Raise ConfigError where pydicom is not installed."""
    try:
        import pydicom  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "DICOM is written by the package pydicom: pip install mnet-gadgets[export]"
        ) from error


def write_dicom(
    folder: Path,
    images: Sequence[Image],
    *,
    identity: Identity = NOBODY,
    technique: Technique | None = None,
) -> list[Path]:
    """Write images as files `SERIES-INSTANCE.dcm` of a folder, which is made; return their paths.

    Raises
    ------
    ConfigError
        If pydicom is missing, the folder is not empty, or an image is not of one 2-D channel.
    HeaderError
        If it is not known where an image lies in the patient.
    """
    require()
    from pydicom.uid import generate_uid

    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty, and nothing in it is replaced: choose another")
    study, frame = identity.study_uid or generate_uid(), generate_uid()
    made: list[tuple[Path, Any]] = []
    for series in series_of(images):
        series_uid = generate_uid()
        pixels = stored(series)
        for number, (image, one) in enumerate(zip(series.images, pixels, strict=True), 1):
            dataset = _described(image, Placement.of(image), one, technique or Technique())
            _identify(dataset, identity)
            dataset.StudyInstanceUID, dataset.FrameOfReferenceUID = study, frame
            dataset.SeriesInstanceUID = series_uid
            dataset.SeriesNumber, dataset.InstanceNumber = series.number, number
            _count(dataset, image, series)
            made.append((folder / f"{series.number}-{number:04d}.dcm", dataset))
    folder.mkdir(exist_ok=True)
    for path, dataset in made:
        dataset.save_as(path, enforce_file_format=True)
    return [path for path, _ in made]


def _described(image: Image, place: Placement, one: Stored, technique: Technique) -> "Dataset":
    """Return everything of a file but whose it is and which one of how many."""
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID, generate_uid

    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(EXPLICIT_LITTLE)
    dataset.SpecificCharacterSet = "ISO_IR 192"
    dataset.SOPClassUID, dataset.SOPInstanceUID = MR_IMAGE_STORAGE, generate_uid()
    dataset.Modality = "MR"
    dataset.Manufacturer = dataset.ManufacturerModelName = "mnet-gadgets"
    dataset.SoftwareVersions = importlib.metadata.version("mnet-gadgets")
    kind = "P" if int(image.header["image_type"]) == PHASE else "M"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", kind, "NONE"]
    dataset.SeriesDescription = image.meta.get("SeriesDescription", "")[:64]
    comment = image.meta.get("ImageComments", "")
    if comment:
        dataset.ImageComments = comment[:_LONGEST]
    _place(dataset, place)
    _tell(dataset, technique)
    _paint(dataset, one)
    return dataset


def _place(dataset: "Dataset", place: Placement) -> None:
    dataset.ImagePositionPatient = _decimals(place.first)
    dataset.ImageOrientationPatient = [*_decimals(place.row), *_decimals(place.column)]
    across, down = place.spacing
    dataset.PixelSpacing = _decimals(np.array([down, across]))  # between rows comes first
    dataset.SliceThickness = _decimals(np.array([place.thickness]))[0]
    dataset.SliceLocation = _decimals(np.array([place.first @ place.normal]))[0]
    dataset.PositionReferenceIndicator = dataset.Laterality = ""


def _tell(dataset: "Dataset", technique: Technique) -> None:
    """Say how it was measured: what must be said, and what is known of the rest."""
    dataset.ScanningSequence, dataset.SequenceVariant = "RM", "NONE"  # research mode
    dataset.ScanOptions = ""
    dataset.MRAcquisitionType = "2D"
    dataset.PatientPosition = technique.patient_position
    dataset.EchoTrainLength = None
    for name, value in (
        ("RepetitionTime", technique.tr_ms),
        ("EchoTime", technique.te_ms),
        ("FlipAngle", technique.flip_deg),
        ("MagneticFieldStrength", technique.field_t),
        ("ImagingFrequency", technique.frequency_mhz),
    ):
        if value is not None:
            setattr(dataset, name, _decimals(np.array([value]))[0])
        elif name in ("RepetitionTime", "EchoTime"):
            setattr(dataset, name, None)  # may be empty, may not be missing


def _paint(dataset: "Dataset", one: Stored) -> None:
    dataset.Rows, dataset.Columns = one.pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    centre, width = ((edge - shift) / one.slope for edge, shift in _window(one))
    dataset.WindowCenter, dataset.WindowWidth = _decimals(np.array([centre, max(width, 1.0)]))
    dataset.RealWorldValueMappingSequence = [_real_world(one)]
    data = one.pixels.astype("<u2").tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)


def _window(one: Stored) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return centre and width of a window of values, each with what a stored 0 stands for."""
    centre, width = one.window
    return (centre, one.intercept), (width, 0.0)


def _real_world(one: Stored) -> "Dataset":
    """Say which values the stored ones stand for.

    Not with RescaleSlope: MR Image Storage has none, and viewers that apply it to values of 1e-3
    cannot show them, for a window is at least 1 wide.
    """
    from pydicom import Dataset

    unit, mapping = Dataset(), Dataset()
    unit.CodeValue, unit.CodingSchemeDesignator, unit.CodeMeaning = "1", "UCUM", "no units"
    mapping.add_new("RealWorldValueFirstValueMapped", "US", 0)
    mapping.add_new("RealWorldValueLastValueMapped", "US", 65535)
    mapping.RealWorldValueIntercept, mapping.RealWorldValueSlope = one.intercept, one.slope
    mapping.LUTExplanation, mapping.LUTLabel = "pixel values of the MRD image", "MRD"
    mapping.MeasurementUnitsCodeSequence = [unit]
    return mapping


def _count(dataset: "Dataset", image: Image, series: Series) -> None:
    """Tell the numbers of echo and repetition, where there are several."""
    last = {name: max(int(i.header[name]) for i in series.images) for name in _NUMBERED}
    if last["contrast"]:
        dataset.EchoNumbers = int(image.header["contrast"]) + 1
    if last["repetition"]:
        dataset.TemporalPositionIdentifier = int(image.header["repetition"]) + 1
        dataset.NumberOfTemporalPositions = last["repetition"] + 1
    dataset.AcquisitionNumber = int(image.header["repetition"]) + 1


_NUMBERED = ("contrast", "repetition")


def _identify(dataset: "Dataset", identity: Identity) -> None:
    dataset.PatientName, dataset.PatientID = identity.patient_name, identity.patient_id
    dataset.PatientBirthDate, dataset.PatientSex = identity.birth_date, identity.sex
    dataset.StudyDate, dataset.StudyTime = identity.study_date, ""
    dataset.StudyID, dataset.AccessionNumber = identity.study_id, identity.accession_number
    dataset.ReferringPhysicianName = ""
    if identity.description:
        dataset.StudyDescription = identity.description


def _decimals(values: Floats) -> list[Any]:
    """Return numbers as decimal strings of at most 16 characters, as many digits as fit."""
    from pydicom.valuerep import DSfloat

    return [DSfloat(float(value), auto_format=True) for value in values]


def _option(field: str) -> str:
    return "--" + field.replace("_", "-")
