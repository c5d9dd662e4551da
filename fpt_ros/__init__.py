"""Physical foresight for robots: what would move if I push here, where to, and how sure is that?

Pure Python lives here; `fpt_ros.msg`, `fpt_ros.srv` and `fpt_ros.action` are generated at build
time. When the generated half is installed elsewhere than this folder (a source checkout beside an
installation), `extend_path` lets both halves form one package.
"""

import pkgutil

__path__ = pkgutil.extend_path(__path__, __name__)
