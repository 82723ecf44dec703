"""The page on which one sees a host work: lines, masks and why, images, errors, the queue.

Who comes in: `gadgets.cli`, where `mnet serve` is given --monitor-port, and nobody else. A session
hands over what happens, a process of its own shows it. What takes time, what asks a browser for
anything but GET, and what says who the patient is must never live here.
"""
