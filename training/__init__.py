"""From data to the deployed weights and the table that says what they are worth.

Its rooms import in one order: config and parallel; data; masks; fit; table; study. Run as
`python -m training.NAME` from a checkout; nothing else imports it.
"""
