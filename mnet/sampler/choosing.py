"""The samplers that choose among vetted masks: a network, or a tree that one can read.

Both have `population(plan)`, the safest fixed mask, and `vetted_masks(plan)`, the family's first.
"""

from .experts import MNetExperts
from .mnet_select import MNetSelect

Choosing = MNetSelect | MNetExperts
EXPECTED = "MNetSelect or MNetExperts"
