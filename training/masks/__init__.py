"""Masks found offline: ICD, population masks, labels, and the samplers of the table.

They are searched for with a reconstructor that is given; no network is trained here.
"""
