"""From every format that is read to MRD HDF5, which every other tool reads."""

from collections.abc import Mapping
from pathlib import Path

from ..errors import ConfigError
from ..mrd.geometry import Geometry
from .fastmri import FirstAxis
from .mrd2 import SUFFIX, library, write_mrd2
from .mrd_hdf5 import write_mrd
from .source import NOTHING, open_source


def convert(
    source_path: Path | str,
    target_path: Path | str,
    *,
    first_axis: FirstAxis = "slice",
    group: str | None = None,
    header: Mapping[str, str] = NOTHING,
    overwrite: bool = False,
) -> str:
    """Write what a data argument holds as MRD HDF5 and say in a sentence what was done.

    A target in `.mrd2` becomes an MRD 2 stream.

    `header` replaces what the source's header has wrong. With `overwrite` an existing target is
    replaced once the new file is whole. Raises what `open_source` raises, HeaderError where a
    header that was changed cannot be, and ConfigError where the target exists or is the source.
    """
    source_path, target_path = Path(source_path), Path(target_path)
    if source_path.resolve() == target_path.resolve():
        raise ConfigError(f"source and target are the same file: {source_path}")
    if target_path.exists() and not overwrite:
        raise ConfigError(f"{target_path} exists and is kept: choose another name, or --overwrite")
    if not target_path.parent.is_dir():
        raise ConfigError(f"there is no folder {target_path.parent} to write to")
    if target_path.suffix == SUFFIX:
        library()  # before the source is read
    source = open_source(source_path, first_axis=first_axis, group=group, header=header)
    if header:
        Geometry.parse(source.header)  # refuses a centre outside the limits
    second = target_path.suffix == SUFFIX
    write = write_mrd2 if second else write_mrd
    write(target_path, source.header, source.acquisitions, source.waveforms)
    slices = {int(line.header["slice"]) for line in source.acquisitions}
    return (
        f"{source_path} ({source.kind}) -> {target_path} ({'MRD 2' if second else 'MRD HDF5'}): "
        f"{len(source.acquisitions)} acquisitions in {len(slices)} slices, "
        f"{len(source.waveforms)} waveforms"
    )
