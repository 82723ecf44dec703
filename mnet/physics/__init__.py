"""How coils and k-space work: Fourier pair, SENSE, ESPIRiT, prewhitening, fields of view.

Everything with an image in it comes in. Nothing here is learned.
"""
