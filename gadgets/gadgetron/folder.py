"""Where a C++ Gadgetron looks for pipelines, and which of ours are for it."""

import importlib.resources
from pathlib import Path

from ..errors import ConfigError

CONFIG = Path("share/gadgetron/config")  # below GADGETRON_HOME
OURS = "gadgetron_*.xml"
CONNECT = "gadgetron_adaptive_modl_connect.xml"  # the one to prefer


def config_folder(folder: Path) -> Path:
    """Return the folder of configurations of a Gadgetron; ConfigError where there is none."""
    for candidate in (folder / CONFIG, folder):
        if (candidate / "default.xml").is_file():
            return candidate
    raise ConfigError(
        f"{folder} is no Gadgetron: expected {CONFIG}/default.xml in it, or default.xml"
    )


def pipelines() -> dict[str, bytes]:
    """Return our pipelines for Gadgetron by file name."""
    ours = Path(str(importlib.resources.files("xml_configs")))
    return {path.name: path.read_bytes() for path in sorted(ours.glob(OURS))}


def is_other(path: Path, text: bytes) -> bool:
    """Say whether a file is there and not this one."""
    return path.exists() and path.read_bytes() != text
