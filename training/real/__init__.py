"""The bench of real scans: every sampler and every method on measured k-space.

What is played here was never simulated: files are read as the streaming side reads them, methods
see the lines of a mask and nothing else, and every figure is against all lines of the same scan.
"""
