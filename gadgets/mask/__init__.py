"""The mask channel, contract adaptive-mask/1: messages, the two ends, the binder, keys.

`PredictMask` sends through here and the virtual scanner receives; a vendor reads this beside
docs/mask-channel.md. It knows slices and counters, never k-space or networks.
"""
