"""What a plugin's other two hooks return: how its files are read, and how it would observe a mock object."""

from __future__ import annotations

from pydantic import Field

from aion_core.contract.modality import IMPORT_PATTERN, KEY_PATTERN, Frozen

#: Versions of the plugin contract that this core understands; a plugin says its own as ``api_version``.
API_VERSIONS = (1,)


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
