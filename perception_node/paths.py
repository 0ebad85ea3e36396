"""Where files lie: what comes with the package but is not Python (engines/, launch/), and what can be made again."""

import os
from pathlib import Path

from perception_node.errors import UserError


def shipped(folder: str) -> Path:
    """`folder` of this checkout or, installed, of share/perception_node in the prefix that holds this module.

    Raises:
        UserError: it is in neither.
    """
    for parent in Path(__file__).resolve().parents[1:]:
        for root in (parent, parent / "share" / "perception_node"):
            # Both kinds of root have our package.xml; a folder that happens to have the name does not.
            if (root / "package.xml").is_file() and (root / folder).is_dir():
                return root / folder
    raise UserError(f"{folder}/: not found beside {Path(__file__).parent}; install the package again")


def cache_folder() -> Path:
    """Of this user, for what can be made again: $XDG_CACHE_HOME/perception_node, or ~/.cache/perception_node."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "perception_node"
