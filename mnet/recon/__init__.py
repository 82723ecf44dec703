"""From measured lines to an image: conjugate gradients, CG-SENSE, MoDL, the U-Net.

The Reconstruct gadget and training come in. Which lines were measured is decided elsewhere.
"""
