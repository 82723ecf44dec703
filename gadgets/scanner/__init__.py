"""The other side of the wire: the virtual scanner, a plain client, the demonstration scan.

`mnet scan`, `demo` and `replay` come in. It talks to a host by its ports alone and must never
reach into one.
"""
