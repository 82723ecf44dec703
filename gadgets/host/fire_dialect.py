"""The dialect of FIRE and python-ismrmrd-server: a module's name instead of a pipeline.

The configuration is a name without `.xml`, in the field of 1024 bytes or as text. After the header
may come a TEXT of JSON, `{"parameters": {"config": ..., "customconfig": ..., NAME: VALUE}}`, whose
`customconfig` and `config` replace the name, whose `mnet_hello` is a sequence's hello (see
`gadgets.mask.in_band`), and whose other entries are properties of our gadgets.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigError
from ..mask.messages import IN_BAND_HELLO

DISCARD, SAVE = "null", "savedataonly"  # modules that reconstruct nothing
SUFFIX = ".xml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a client of this dialect asks for."""

    module: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    hello: str | None = None  # JSON


def request(module: str, text: str | None) -> Request:
    """Join a module's name and the text that may follow the header; other text is only a remark.

    Raises
    ------
    ConfigError
        If the text begins as JSON and is not what is expected.
    """
    if text is None or not text.lstrip().startswith("{"):
        return Request(module=module.removesuffix(SUFFIX))
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"the JSON text after the header cannot be read: {error}") from None
    parameters = content.get("parameters", {})
    if not isinstance(parameters, dict):
        raise ConfigError("the JSON text after the header: parameters is no object")
    hello = parameters.pop(IN_BAND_HELLO, None)
    if not isinstance(hello, str | None):
        hello = json.dumps(hello)
    values = {key: _text(key, value) for key, value in parameters.items()}
    config, custom = values.pop("config", ""), values.pop("customconfig", "")
    module = (custom or config or module).removesuffix(SUFFIX)
    return Request(module=module, parameters=values, hello=hello)


def refuse_late(module: str, text: str) -> None:
    """Raise ConfigError for a text that would change the scan which it came in the middle of."""
    late = request(module, text)
    if late.module != module or late.parameters or late.hello is not None:
        raise ConfigError(
            "parameters in JSON came too late: they belong right after the MRD header, "
            f"and the configuration is then named without {SUFFIX}"
        )


def _text(key: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if value is None or isinstance(value, str | int | float):
        return "" if value is None else str(value)
    raise ConfigError(f"parameter {key} of the JSON text is {value!r}, expected one value")
