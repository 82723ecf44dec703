"""How good an image is, and what other masks would have made of the same scan.

Scanner, report and training come in. Nothing that runs beside a patient needs it.
"""
