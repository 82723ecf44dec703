"""An adaptive scan in two parts, for scanners whose lines are fixed before a scan begins.

The first part measures the calibration; `decide` makes a mask of it for every slice, with the
gadgets of the stream; the second part measures the rest; `merge` makes one scan of both. Who comes
in: the command line. No socket and no host: what decides is the pipeline itself.
"""
