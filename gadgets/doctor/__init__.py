"""What usually goes wrong on a machine, and what to do about it.

`mnet doctor` comes in. It looks and never changes anything.
"""
