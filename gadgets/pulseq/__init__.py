"""Pulseq: the reference sequences as `.seq` files, and what a `.seq` file says of its raw data.

Who comes in: the command line, and whoever runs scans from Python. `protocol` says what is measured
and `course` in which order; `shots` draws one shot, `write` the file, `check` looks at the result
with other eyes, `described` reads a file back. Never the host: a scan needs no Pulseq to be
reconstructed. pypulseq comes with the extra `sequence`, and is imported where it is used.
"""
