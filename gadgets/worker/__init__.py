"""The process that reconstructs, its end here, and the shared memory between the two.

The host and a node beside a C++ Gadgetron each have one; masks never wait for it.
"""
