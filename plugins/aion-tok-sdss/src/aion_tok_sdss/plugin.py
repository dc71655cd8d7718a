"""What this distribution tells aion-core: data only, nothing heavy is imported here."""

from __future__ import annotations

from aion_core.contract import ModalitySpec, ReaderSpec, SimulatorSpec
from aion_core.plugins import hookimpl
from aion_tok_sdss.specs import MODALITIES

api_version = 1


@hookimpl
def aion_modalities() -> list[ModalitySpec]:
    return list(MODALITIES)


@hookimpl
def aion_readers() -> list[ReaderSpec]:
    return [
        ReaderSpec(
            name="sdss_spectra",
            title="SDSS spectrum files: spec-PLATE-MJD-FIBER of SDSS-I/II and BOSS/eBOSS, lite and full, and SDSS-V",
            patterns=("*.fits", "*.fits.gz", "*.fit", "*.fit.gz"),
            reader="aion_tok_sdss.reader:SpectrumReader",
            modalities=(*(spec.key for spec in MODALITIES), "catalog_redshift"),
        ),
    ]


@hookimpl
def aion_simulators() -> list[SimulatorSpec]:
    return [
        SimulatorSpec(
            name="sdss_plate",
            modalities=(*(spec.key for spec in MODALITIES), "catalog_redshift"),
            simulator="aion_tok_sdss.simulator:SpectrumSimulator",
        )
    ]
