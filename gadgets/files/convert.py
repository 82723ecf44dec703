"""From every format that is read to MRD HDF5, which every other tool reads."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from ..errors import ConfigError
from ..mrd.geometry import Geometry
from .fastmri import FirstAxis
from .identity import without_identity
from .mrd2 import library
from .mrd2_stream import SUFFIX, write_mrd2
from .mrd_hdf5 import write_mrd
from .source import NOTHING, Source, open_source


def convert(
    source_path: Path | str,
    target_path: Path | str,
    *,
    first_axis: FirstAxis = "slice",
    group: str | None = None,
    header: Mapping[str, str] = NOTHING,
    overwrite: bool = False,
    described: Callable[[Source], Source] | None = None,
    with_identity: bool = False,
) -> str:
    """Write what a data argument holds as MRD HDF5, and say in a sentence what was done.

    A target in `.mrd2` becomes an MRD 2 stream.

    `header` replaces what the source's header has wrong. With `overwrite` an existing target is
    replaced once the new file is whole. `described` gives raw data the header and the counters of
    the sequence that measured them; nothing is then taken from their own. The target is its owner's
    alone, and does not say whose scan it is (`gadgets.files.identity`) unless `with_identity` asks
    for it.

    Raises what `open_source` raises, HeaderError where the header is none or one that was changed
    cannot be, and ConfigError where the target exists or is the source.
    """
    source_path, target_path = Path(source_path), Path(target_path)
    if source_path.resolve() == target_path.resolve():
        raise ConfigError(f"source and target are the same file: {source_path}")
    if target_path.exists() and not overwrite:
        raise ConfigError(f"{target_path} exists and is kept: choose another name, or --overwrite")
    if not target_path.parent.is_dir():
        raise ConfigError(f"there is no folder {target_path.parent} to write to")
    second = target_path.suffix == SUFFIX
    if second:
        library()  # before the source is read
    source = open_source(
        source_path,
        first_axis=first_axis,
        group=group,
        header=header,
        as_it_is=described is not None,
    )
    if described is not None:
        source = described(source)
    if header or described is not None:
        Geometry.parse(source.header)  # refuses a centre outside the limits
    xml = source.header if with_identity else without_identity(source.header)
    write = write_mrd2 if second else partial(write_mrd, private=True)
    write(target_path, xml, source.acquisitions, source.waveforms)
    slices = {int(line.header["slice"]) for line in source.acquisitions}
    return (
        f"{source_path} ({source.kind}) -> {target_path} ({'MRD 2' if second else 'MRD HDF5'}): "
        f"{len(source.acquisitions)} acquisitions in {len(slices)} slices, "
        f"{len(source.waveforms)} waveforms; "
        + ("with what its header says of the patient" if with_identity else "without identity")
    )
