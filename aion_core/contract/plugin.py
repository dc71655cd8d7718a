"""What a plugin's other two hooks return: how its files are read, and how it would observe a mock object."""

from __future__ import annotations

from pydantic import Field

from aion_core.contract.modality import IMPORT_PATTERN, KEY_PATTERN, Frozen


class PluginApi(Frozen):
    """The plugin contract by its version, which a plugin says as ``api_version``, and how plugins follow it.

    A core understands plugins of its own version and of the one before, so that nobody has to upgrade all at once.
    """

    version: int = Field(ge=1)
    changes: dict[int, str] = Field(
        default_factory=dict, description="by version, what a plugin of the one before is to replace by what"
    )

    @property
    def understood(self) -> tuple[int, ...]:
        """The versions of plugins that work, oldest first."""
        return tuple(range(max(1, self.version - 1), self.version + 1))

    def advice(self, version: int) -> str | None:
        """Return what a plugin of an older version is to change, in one sentence; None for one of this version."""
        if version == self.version:
            return None
        steps = [self.changes[step] for step in range(version + 1, self.version + 1) if step in self.changes]
        return f"api_version {version} goes with the next one; use api_version {self.version}" + "".join(
            f": {step}" for step in steps
        )


API = PluginApi(version=1)
API_VERSIONS = API.understood


class ReaderSpec(Frozen):
    """How one kind of native file is read.

    `reader` names a class with ``claims(path) -> bool`` (from header or columns, never from the name alone) and
    ``read(path, batch_size) -> Iterator[ObservationBatch]``; `aion_core.data.Reader` is the base.
    """

    name: str = Field(pattern=KEY_PATTERN, description="begins with the plugin's name")
    title: str = Field(min_length=1)
    patterns: tuple[str, ...] = Field(min_length=1, description="globs on the file name, e.g. '*.fits'")
    reader: str = Field(pattern=IMPORT_PATTERN)
    modalities: tuple[str, ...] = Field(min_length=1, description="keys that it can yield")
    samples: tuple[str, ...] = Field(
        default=(), description="real files in third-party wheels, `package:path/inside`; used by demo and tests"
    )


class SimulatorSpec(Frozen):
    """How the survey would see a given object, as files in its own format (`observe(objects, folder, rng)`)."""

    name: str = Field(pattern=KEY_PATTERN, description="begins with the plugin's name")
    modalities: tuple[str, ...] = Field(min_length=1)
    simulator: str = Field(pattern=IMPORT_PATTERN)
