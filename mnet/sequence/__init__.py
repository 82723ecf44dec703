"""When a line is measured, and what tissue says by then: echo order, EPG, recovery between shots.

The scanner comes in, and whoever writes sequences. Numpy alone: no k-space of coils, no torch, and
nothing of what a line is good for, which is the masks' room.
"""
