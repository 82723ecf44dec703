"""Which lines may be acquired, and masks that need no network: densities, patterns, a family.

Samplers, scanner and training come in. No k-space, and no torch.
"""
