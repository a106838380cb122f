"""Who trains on what: sources, codes, designs and what they guarantee. Numpy only.

Names are imported when first used, so that a command can be stopped before numpy is.
"""

import importlib
from typing import TYPE_CHECKING, Any

from splits import old_names, renamed

if TYPE_CHECKING:
    from splits.codes import CodeBook, ablated_votes, full_votes, surviving_votes
    from splits.errors import BadInput

_HOMES = {
    "BadInput": "splits.errors",
    "CodeBook": "splits.codes",
    "ablated_votes": "splits.codes",
    "full_votes": "splits.codes",
    "surviving_votes": "splits.codes",
}
__all__ = ["BadInput", "CodeBook", "ablated_votes", "full_votes", "surviving_votes"]

renamed.modules(old_names.MODULES, old_names.NAMES)


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'splits' has no attribute {name!r}")
