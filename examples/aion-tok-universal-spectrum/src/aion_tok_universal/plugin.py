"""What this distribution tells aion-core: data only, nothing heavy is imported here."""

from __future__ import annotations

from aion_core.contract import ModalitySpec, ReaderSpec, SimulatorSpec
from aion_core.plugins import hookimpl
from aion_tok_universal.specs import MODALITIES

api_version = 1

KEYS = tuple(spec.key for spec in MODALITIES)


@hookimpl
def aion_modalities() -> list[ModalitySpec]:
    return list(MODALITIES)


@hookimpl
def aion_readers() -> list[ReaderSpec]:
    return [
        ReaderSpec(
            name="universal_table",
            title="FITS tables of spectra, a row each with its own wavelengths",
            patterns=("*.fits", "*.fits.gz"),
            reader="aion_tok_universal.reader:TableReader",
            modalities=KEYS,
        )
    ]


@hookimpl
def aion_simulators() -> list[SimulatorSpec]:
    return [
        SimulatorSpec(
            name="universal_sky", modalities=KEYS, simulator="aion_tok_universal.simulator:SpectrographsSimulator"
        )
    ]
