"""The embedded host: connections, sessions, the worker process, and how it is doing.

`mnet serve` and the node under the C++ Gadgetron come in. No step of reconstruction is decided
here, and nothing here plays a scanner.
"""
