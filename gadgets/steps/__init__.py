"""Our gadgets, from lines to finished images; `gadgetron_*` stand for Gadgetron's own.

XML names them, and the virtual scanner makes its reference with the same ones. A step sees the scan
it is given and the items that come; it never opens a socket or a file.
"""
