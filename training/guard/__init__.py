"""The guard of a sampler in the making: odd cases, what is looked at in scans, limits, figures.

`training.study` comes in; `mnet.sampler.guard` is what leaves, in the card of a sampler. Nothing
here trains a network.
"""
