"""What lies on disk: MRD and fastMRI HDF5, Siemens twix, scan records, stored noise.

The scanner plays these files, the host writes records, training reads scans image by image; all
through `gadgets.files.source`. Nothing here knows of masks, pipelines or sockets.
"""
