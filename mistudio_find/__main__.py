"""`python -m mistudio_find` is `mistudio serve find`: the command line is above the services, so it is executed."""

from __future__ import annotations

import os
import sys

os.execv(sys.executable, [sys.executable, "-m", "mistudio_cli", "serve", "find", *sys.argv[1:]])  # noqa: S606
