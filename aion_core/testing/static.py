"""Rules on what a plugin declares: nothing is encoded for them."""

from __future__ import annotations

from collections.abc import Iterator

from aion_core.testing.rules import rule
from aion_core.testing.subject import Subject


@rule("plugin", "mend what is named; `aion plugins` shows the same, and docs/conformance.md a whole plugin module")
def imports(subject: Subject, _: None) -> Iterator[str]:
    """The plugin's module imports, has an api_version that the core knows, and its hooks return lists of specs."""
    for failure in subject.failures:
        if failure.stage in ("import", "api_version", "hook"):
            yield f"{failure.stage}: {failure.reason}"
