"""Networks in training: the loop, checkpoints, MoDL and U-Net, MNet, MNet-select, LOUPE, cards.

What it makes are weights with a card; what they are worth is decided in `training.table`.
"""
