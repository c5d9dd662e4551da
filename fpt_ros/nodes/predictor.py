"""The program `predictor_node`: leaves quietly when it is interrupted while it is being imported.

Without an installation: python -m fpt_ros.nodes.predictor --ros-args -p checkpoint:=my.safetensors
"""

import os
import signal
import sys


def main() -> int:
    """Run the node; return its exit status."""
    # PyTorch takes seconds to import; a KeyboardInterrupt in there would be a traceback.
    signal.signal(signal.SIGINT, lambda *_: os._exit(0))
    from fpt_ros.nodes.predictor_node import main

    return main()


if __name__ == "__main__":
    sys.exit(main())
