"""Scans to learn from: images and their licences, simulation, k-space files, cohorts on disk.

Files are read through `gadgets.mrd` and `gadgets.files`, and through no other room of `gadgets`.
"""
