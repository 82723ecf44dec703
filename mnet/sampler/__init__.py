"""From the calibration lines of a slice to its mask: features, MNet, MNet-select.

PredictMask and training come in. It sees the calibration lines and the plan, and never another
line.
"""
