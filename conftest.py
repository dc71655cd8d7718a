"""Fixtures shared by the tests of the core and of the plugins."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

VARIABLE = "AION_SAMPLE_DIR"

# Tests run side by side and their networks are small: more threads than cores would only wait for each other. Set
# before torch is imported, and inherited by the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def sample_dir() -> Path:
    """The folder of real survey files; tests that need it are skipped where the variable is not set."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        pytest.skip(f"{VARIABLE} is not set")
    if not Path(folder).is_dir():
        pytest.fail(f"{VARIABLE}={folder} is not a folder")
    return Path(folder)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A skip while the sample folder is set hides a test that should have run: the run fails.

    But for rules of the conformance suite that say nothing about a part of a plugin, and why.
    """
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skips = reporter.stats.get("skipped", []) if reporter else []
    skipped = [report for report in skips if "Skipped: not applicable: " not in str(report.longrepr)]
    if os.environ.get(VARIABLE) and skipped and exitstatus == 0:
        reporter.write_line(f"{len(skipped)} test(s) skipped although {VARIABLE} is set", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
