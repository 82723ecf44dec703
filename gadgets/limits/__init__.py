"""How much one host gives to one client: sessions, silence, files, and the size of a scan.

The host asks here before it takes a connection, waits for a peer or makes room for a scan. Nothing
here reads a message or knows of pipelines.
"""
