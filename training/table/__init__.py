"""The table: every sampler under every reconstructor, with intervals, figures and the page.

It reads weights and masks, and changes neither.
"""
