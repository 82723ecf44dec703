"""From measured lines to an image: CG-SENSE, compressed sensing, MoDL, the U-Net.

The Reconstruct gadget and training come in. Which lines were measured is decided elsewhere.
"""
