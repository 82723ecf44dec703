"""`mnet export`: finished images as DICOM files or NIfTI volumes."""

import argparse
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from ..errors import ConfigError

_HELP = {
    "patient_name": "FAMILY^GIVEN",
    "patient_id": "as the hospital has it",
    "birth_date": "YYYYMMDD",
    "sex": "M, F or O",
    "study_uid": "of a study that the images shall belong to; a new one without",
    "study_date": "YYYYMMDD",
    "study_id": "short name of the study",
    "accession_number": "of the order",
    "description": "of the study",
}


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command and its options."""
    parser = command(
        "export",
        run,
        "Write finished images as DICOM files, or as NIfTI volumes.",
        "IMAGES is what replay and scan write with --output, or a Gadgetron's client. DICOM is MR\n"
        "Image Storage, one file an image, in a folder that is new or empty. Whose images they\n"
        "are is what these options say and nothing else. Needs\n"
        "pip install mnet-gadgets[export].\n\n"
        "example: mnet export images.h5 --dicom dicom --patient-id 1234\n"
        "         mnet export images.h5 --nifti volume.nii.gz",
    )
    parser.add_argument("images", type=Path, help="MRD HDF5 with images")
    parser.add_argument("--dicom", type=Path, metavar="DIR", help="folder to write to")
    parser.add_argument("--nifti", type=Path, metavar="FILE", help=".nii.gz or .nii to write")
    parser.add_argument(
        "--scan",
        type=Path,
        metavar="DATA",
        help="the raw data: TR, TE, flip angle, field strength and how the patient lay are taken "
        "from its header",
    )
    who = parser.add_argument_group("identity", "What DICOM says of patient and study.")
    for name, text in _HELP.items():
        who.add_argument(_option(name), default="", metavar="TEXT", help=text)


def run(options: argparse.Namespace) -> int:
    """Write what was asked for, and say what was written."""
    from ..export import dicom, nifti
    from ..export.technique import Technique
    from ..files.image_file import read_images
    from ..files.source import open_kspace

    identity = dicom.Identity(
        **{field.name: getattr(options, field.name) for field in fields(dicom.Identity)}
    )
    if options.dicom is None and options.nifti is None:
        raise ConfigError("nothing to write: name --dicom DIR, --nifti FILE, or both")
    if options.nifti is not None:
        if not options.nifti.name.endswith(nifti.SUFFIXES):
            raise ConfigError(f"--nifti {options.nifti}: expected a name in .nii.gz or .nii")
        nifti.require()
    if options.dicom is not None:
        dicom.require()
    images = read_images(options.images)
    technique = None if options.scan is None else Technique.of(open_kspace(options.scan).header)
    if options.dicom is not None:
        made = dicom.write_dicom(options.dicom, images, identity=identity, technique=technique)
        print(f"{len(made)} files in {options.dicom} (DICOM)")
    if options.nifti is not None:
        for path in nifti.write_nifti(options.nifti, images):
            print(f"{path} (NIfTI)")
    return 0


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")
