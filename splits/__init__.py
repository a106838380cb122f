"""Who trains on what: sources, codes, designs and what they guarantee. Numpy only."""

from splits import old_names, renamed
from splits.codes import CodeBook, ablated_votes, full_votes, surviving_votes
from splits.errors import BadInput

__all__ = ["BadInput", "CodeBook", "ablated_votes", "full_votes", "surviving_votes"]

renamed.modules(old_names.MODULES)
