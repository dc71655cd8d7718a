"""The builder of broken plugins as a fixture, and one folder with all of them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


BROKEN = _load("broken_plugins")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test that asks for `case` once for each fault."""
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", BROKEN.CASES, ids=lambda case: case.fault)


@pytest.fixture(scope="session")
def broken() -> ModuleType:
    return BROKEN


@pytest.fixture(scope="session")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every broken and every odd distribution."""
    return BROKEN.build_all(tmp_path_factory.mktemp("everything"))


@pytest.fixture(scope="session")
def document(everything: Path) -> dict[str, Any]:
    """What ``aion plugins --json`` says where all of them are installed beside the real plugins."""
    return BROKEN.report(everything)
