"""How scenes are drawn."""

import os
import subprocess
import sys


def test_the_software_renderer_starts_no_threads_for_other_cores():
    """Whatever makes the first context of a process, which may be a question if one can be made."""
    code = (
        "from pathlib import Path\n"
        "from fpt_ros.data.scenes.render import drawn_with\n"
        "drawn_with()\n"
        "names = [path.read_text() for path in Path('/proc/self/task').glob('*/comm')]\n"
        "print(sum('llvmpipe' in name for name in names))\n"
    )
    environment = {k: v for k, v in os.environ.items() if k != "LP_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert int(done.stdout) <= 1
