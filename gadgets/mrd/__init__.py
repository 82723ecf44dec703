"""The MRD format without any I/O policy: what flows, its bytes, messages, headers and geometry.

It says where a line's samples belong in k-space, for streams and for files alike. Everybody comes
in who reads or writes a readout or an image. Nothing here opens a file, runs a gadget, or imports
torch.
"""
