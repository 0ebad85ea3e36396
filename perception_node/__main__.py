"""The console script `perception_node`, and `python -m perception_node`.

Python takes a second to import the node, in which Ctrl-C would leave a traceback; what comes then main.py sees to.
"""

import os
import signal
import sys


def main() -> int:
    """The exit status; see perception_node.main."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(0))
    from perception_node.main import main as run

    return run()


if __name__ == "__main__":
    sys.exit(main())
