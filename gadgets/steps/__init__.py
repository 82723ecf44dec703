"""Our gadgets, one file each, in the order of a pipeline: from lines to finished images.

They are named by XML and by nobody else. A step sees the scan it is given and the items that
come; it never opens a socket or a file.
"""
