"""The page that says what a scan gained: figures, pictures, tables and the verdict in words.

The scanner hands in its findings. It needs `mnet` alone: no wire, no file of k-space, no host.
"""
