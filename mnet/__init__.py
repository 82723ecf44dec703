"""The science in PyTorch: from k-space to images, and from calibration lines to masks.

Its rooms import in one order: physics and masks; recon, sampler and sequence; weight_files; score.
It knows nothing of XML, sockets, or files other than weights.
"""
