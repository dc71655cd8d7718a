"""The rules in the order in which they are put, and what becomes of all of them."""

from __future__ import annotations

from aion_core.testing import static
from aion_core.testing.rules import Rule

RULES: tuple[Rule, ...] = (static.imports,)
