"""``python -m aion_core.cli``, the same as ``aion``."""

import sys

from aion_core.cli import main

sys.exit(main())
