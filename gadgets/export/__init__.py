"""Finished MRD images as files that other programs read: DICOM, NIfTI, PNG, and pages of pictures.

Who comes in: the commands `replay`, `scan`, `export` and `show`. Where an image lies in the patient
is worked out in one place, `placement`. Nothing here reconstructs, and no identity is invented or
copied: a patient is named by the caller or not at all.
"""
