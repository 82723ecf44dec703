"""Headers whose `waveformInformation` has no `userParameters`, for the PyPI `gadgetron` package.

The C++ Gadgetron sends them, `userParameters` being optional to it; `ismrmrd` 1.15 requires the
element, so that `python -m gadgetron` dies before it imports any node. The one door that opens
earlier is xsdata's, by which `ismrmrd` reads headers: it imports the entry points of the group
`xsdata.plugins.class_types`, and this module is one of them (see pyproject.toml). Our own reading
of headers, in `gadgets.mrd.header_xml`, needs none of this.
"""

import inspect
import logging
from typing import Any

log = logging.getLogger(__name__)


def make_optional(kind: Any) -> None:
    """Let a header element of `ismrmrd` be built without `userParameters`."""
    parameter = inspect.signature(kind).parameters.get("userParameters")
    if parameter is not None and parameter.default is inspect.Parameter.empty:
        defaults = kind.__init__.__kwdefaults__ or {}
        kind.__init__.__kwdefaults__ = {**defaults, "userParameters": None}


try:
    from ismrmrd.xsd.ismrmrdschema.ismrmrd import waveformInformationType
except ImportError:  # another version of it: never a reason for its own import to fail
    log.debug("the header classes of ismrmrd are not where they were")
else:
    make_optional(waveformInformationType)
