"""What this distribution tells aion-core: data only, nothing heavy is imported here."""

from __future__ import annotations

from aion_core.contract import ModalitySpec, ReaderSpec, SimulatorSpec
from aion_core.plugins import hookimpl
from aion_tok_desi.specs import MODALITIES

api_version = 1

#: Real files in the wheel of specutils.
SAMPLES = "specutils:io/default_loaders/tests/desi_test_data"
#: What a fibermap repeats of the Legacy Surveys, with which DESI selects its targets.
IMAGING = (
    *(f"legacy_flux_{band}" for band in ("g", "r", "i", "z", "w1", "w2", "w3", "w4")),
    "legacy_ebv",
    *(f"legacy_shape_{axis}" for axis in ("r", "e1", "e2")),
)


@hookimpl
def aion_modalities() -> list[ModalitySpec]:
    return list(MODALITIES)


@hookimpl
def aion_readers() -> list[ReaderSpec]:
    return [
        ReaderSpec(
            name="desi_files",
            title="DESI coadds and spectra with their fibermap and redshifts; redrock files and redshift catalogues",
            patterns=("*.fits", "*.fits.gz"),
            reader="aion_tok_desi.reader:DesiReader",
            modalities=(*(spec.key for spec in MODALITIES), *IMAGING, "catalog_redshift"),
            samples=tuple(
                f"{SAMPLES}/{name}.fits"
                for name in (
                    "coadd-sv3-dark-26065",
                    "spectra-sv3-dark-26065",
                    "coadd-5-169-thru20210419",
                    "spectra-5-169-thru20210419",
                )
            ),
        ),
    ]


@hookimpl
def aion_simulators() -> list[SimulatorSpec]:
    return [
        SimulatorSpec(
            name="desi_coadd",
            modalities=(*(spec.key for spec in MODALITIES), "catalog_redshift"),
            simulator="aion_tok_desi.simulator:CoaddSimulator",
        )
    ]
