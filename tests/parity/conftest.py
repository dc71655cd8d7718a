"""Lets the tests here import the modules beside them: the tables and the cases of each codec."""

from __future__ import annotations

import sys
from pathlib import Path

if (HERE := str(Path(__file__).parent)) not in sys.path:
    sys.path.insert(0, HERE)
