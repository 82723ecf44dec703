"""What can go wrong, as a tree.

    GadgetsError
    ├── ConfigError     a pipeline or a command line that cannot be what was meant
    ├── HeaderError     an MRD header that cannot be reconstructed (also a ValueError)
    ├── ProtocolError   bytes from a peer or a file that break the protocol
    ├── IncompleteError a file that is not the fully sampled scan that is needed (a ValueError too)
    └── GadgetError     a gadget failed on its input; the cause is chained

Messages say what, what was expected and what came instead.
"""


class GadgetsError(Exception):
    """Any failure that this package explains."""


class ConfigError(GadgetsError):
    """A pipeline or a command line names something that does not exist or does not fit."""


class HeaderError(GadgetsError, ValueError):
    """An MRD header is broken, or describes a scan that is not supported."""


class ProtocolError(GadgetsError):
    """Bytes from a peer or a file break the protocol."""


class IncompleteError(GadgetsError, ValueError):
    """A file is not the fully sampled scan that is needed."""


class GadgetError(GadgetsError):
    """A gadget failed on its input."""
