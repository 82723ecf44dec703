"""A study as a whole: one configuration, its steps from data to table, what they will take.

`python -m training.pipeline` comes in; no other room imports this one.
"""
