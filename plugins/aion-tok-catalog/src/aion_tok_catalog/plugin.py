"""What this distribution tells aion-core: data only, nothing heavy is imported here."""

from __future__ import annotations

from aion_core.contract import ModalitySpec, ReaderSpec, SimulatorSpec
from aion_core.plugins import hookimpl
from aion_tok_catalog.specs import MODALITIES

api_version = 1


@hookimpl
def aion_modalities() -> list[ModalitySpec]:
    return list(MODALITIES)


@hookimpl
def aion_readers() -> list[ReaderSpec]:
    return [
        ReaderSpec(
            name="catalog_tables",
            title="tables of redshifts or sources whose columns the user names",
            patterns=(
                *("*.fits", "*.fits.gz", "*.fit", "*.fit.gz", "*.csv", "*.csv.gz", "*.ecsv", "*.vot", "*.votable"),
                *("*.xml", "*.parquet", "*.h5", "*.hdf5", "*.tsv", "*.txt", "*.dat"),
            ),
            reader="aion_tok_catalog.reader:TableReader",
            modalities=tuple(spec.key for spec in MODALITIES),
        ),
    ]


@hookimpl
def aion_simulators() -> list[SimulatorSpec]:
    return [
        SimulatorSpec(
            name="catalog_compilation",
            modalities=tuple(spec.key for spec in MODALITIES),
            simulator="aion_tok_catalog.simulator:CompilationSimulator",
        )
    ]
