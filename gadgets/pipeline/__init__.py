"""What a gadget is, and how XML becomes a chain of them.

Who writes a gadget starts at `gadget.py`; hosts come for `build.py`. Sockets and processes
stay out, and no gadget of ours is imported before XML names it.
"""
