"""The whole plugin contract: three hooks, each returning data. Heavy code is named by import strings."""

from __future__ import annotations

import pluggy

from aion_core.contract import ModalitySpec, ReaderSpec, SimulatorSpec

PROJECT = "aion"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def aion_modalities() -> list[ModalitySpec]:  # type: ignore[empty-body]
    """Return what the survey measures: one spec per modality."""


@hookspec
def aion_readers() -> list[ReaderSpec]:  # type: ignore[empty-body]
    """Return how the survey's files are read: one spec per kind of file."""


@hookspec
def aion_simulators() -> list[SimulatorSpec]:  # type: ignore[empty-body]
    """Return how the survey would see a given object, written as files in its own format."""
