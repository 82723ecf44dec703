"""Headers whose `waveformInformation` has no `userParameters`, for the PyPI `gadgetron` package.

The C++ Gadgetron sends them, `userParameters` being optional to it; `ismrmrd` 1.15 requires the
element, so that `python -m gadgetron` dies before it imports any node. The one door that opens
earlier is xsdata's, by which `ismrmrd` reads headers: it imports the entry points of the group
`xsdata.plugins.class_types`, and this module is one of them (see pyproject.toml). xsdata does so in
every program of the environment. Only one that was started to run our node is changed; to all
others this module does nothing. Our own reading of headers, in `gadgets.mrd.geometry`, needs none
of this.
"""

import inspect
import logging
import sys
from collections.abc import Sequence
from typing import Any

log = logging.getLogger(__name__)
NODE = "gadgets.external"


def runs_our_node(command: Sequence[str]) -> bool:
    """Say whether a process was started as `python -m gadgetron PORT gadgets.external ...`."""
    return any(
        command[i : i + 2] == ["-m", "gadgetron"] and NODE in command[i + 2 :]
        for i in range(len(command))
    )


def make_optional(kind: Any) -> None:
    """Let a header element of `ismrmrd` be built without `userParameters`."""
    parameter = inspect.signature(kind).parameters.get("userParameters")
    if parameter is not None and parameter.default is inspect.Parameter.empty:
        defaults = kind.__init__.__kwdefaults__ or {}
        kind.__init__.__kwdefaults__ = {**defaults, "userParameters": None}


if runs_our_node(sys.orig_argv):
    try:
        from ismrmrd.xsd.ismrmrdschema.ismrmrd import waveformInformationType
    except ImportError:  # another version of it: never a reason for its own import to fail
        log.debug("the header classes of ismrmrd are not where they were")
    else:
        make_optional(waveformInformationType)
