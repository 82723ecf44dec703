"""Where the images of a command go, told by the name: `.h5`, `.nii.gz`, `.png`, or a folder."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import ConfigError
from ..files.source import write_images
from ..mrd.items import Image
from . import dicom, nifti
from .technique import Technique

Kind = Literal["HDF5", "NIfTI", "PNG", "DICOM"]
_SUFFIXES: tuple[tuple[str, Kind], ...] = (
    (".h5", "HDF5"),
    (".hdf5", "HDF5"),
    (".mrd", "HDF5"),
    (".nii.gz", "NIfTI"),
    (".nii", "NIfTI"),
    (".png", "PNG"),
)
_EXPECTED = "a name in .h5, .nii.gz or .png, or a folder for DICOM"


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """A place for images that was looked at before there are any."""

    path: Path
    kind: Kind

    @classmethod
    def of(cls, path: Path) -> "Output":
        """Tell the kind, and find out whether it can be written.

        Raises
        ------
        ConfigError
            If the name has another suffix, the folder that it shall lie in is missing, a folder of
            DICOM is not empty, or the package that writes the format is not installed.
        """
        name = path.name.lower()
        kind = next((kind for suffix, kind in _SUFFIXES if name.endswith(suffix)), None)
        if kind is None and path.suffix and not path.is_dir():
            raise ConfigError(f"--output {path}: no format {path.suffix!r}, expected {_EXPECTED}")
        if kind == "NIfTI":
            nifti.require()
        if kind is None:
            dicom.require()
            if path.is_dir() and any(path.iterdir()):
                raise ConfigError(f"--output {path} is not empty, and nothing in it is replaced")
        return cls(path=path, kind=kind or "DICOM")

    def write(self, images: Sequence[Image], header: bytes | None = None) -> str:
        """Write images; return in a few words what was written. `header` is that of the scan."""
        if self.kind == "HDF5":
            write_images(self.path, images, "mnet")
        elif self.kind == "NIfTI":
            made = nifti.write_nifti(self.path, images)
            return f"{', '.join(map(str, made))} (NIfTI)"
        elif self.kind == "PNG":
            from .pictures_of import image_sections
            from .sheet import write_png

            write_png(self.path, image_sections(images))
        else:
            technique = None if header is None else Technique.of(header)
            made = dicom.write_dicom(self.path, images, technique=technique)
            return f"{len(made)} files in {self.path} (DICOM)"
        return f"{self.path} ({self.kind})"


def planned(path: Path | None) -> Output | None:
    """Look at where images shall go, before there are any; ConfigError as `Output.of`."""
    return None if path is None else Output.of(path)


def keep(output: Output | None, images: Sequence[Image], header: bytes) -> str:
    """Write the images of a scan with this MRD header; return what became of them."""
    if output is None:
        return "not kept: --output says where to"
    return f"kept in {output.write(images, header)}" if images else "nothing to keep"
