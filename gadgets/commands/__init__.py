"""Commands of `mnet`, one module each: `add` gives the parser its options, `run` does the work.

Who comes in: `gadgets.cli`, which calls every `add` and nothing else. `add` is called on every
start of `mnet`, so what takes time to import is imported in `run`. What a command does that is of
use elsewhere belongs into the room of that thing, never here.
"""
