"""What this distribution tells aion-core: data only, nothing heavy is imported here."""

from __future__ import annotations

from aion_core.contract import ModalitySpec, ReaderSpec, SimulatorSpec
from aion_core.plugins import hookimpl
from aion_tok_gaia.specs import MODALITIES

api_version = 1


@hookimpl
def aion_modalities() -> list[ModalitySpec]:
    return list(MODALITIES)


@hookimpl
def aion_readers() -> list[ReaderSpec]:
    tables = ("*.fits", "*.csv", "*.tsv", "*.ecsv", "*.vot", "*.votable", "*.xml", "*.json")
    others = ("*.parquet", "*.pq", "*.zip")
    return [
        ReaderSpec(
            name="gaia_table",
            title="Gaia archive tables: gaia_source and XP continuous mean spectra",
            patterns=(*tables, *(f"{pattern}.gz" for pattern in tables), *others),
            reader="aion_tok_gaia.reader:ArchiveReader",
            modalities=tuple(spec.key for spec in MODALITIES),
            samples=(
                "astroquery:gaia/tests/data/1710099405832VAL-result.vot",
                "astroquery:gaia/tests/data/1712337806100O-result.ecsv",
                "astroquery:gaia/tests/data/cone_search.json",
                "astroquery:gaia/tests/data/gaia_dr3_source_id_5937083312263887616_dl_products_fits.zip",
            ),
        ),
        ReaderSpec(
            name="gaia_xp_arrays",
            title="Gaia XP coefficients as NumPy arrays: X [n, 110], source_id [n]",
            patterns=("*.npz",),
            reader="aion_tok_gaia.reader:ArrayReader",
            modalities=("gaia_xp_bp", "gaia_xp_rp"),
        ),
    ]


@hookimpl
def aion_simulators() -> list[SimulatorSpec]:
    return [
        SimulatorSpec(
            name="gaia_archive",
            modalities=tuple(spec.key for spec in MODALITIES),
            simulator="aion_tok_gaia.simulator:ArchiveSimulator",
        )
    ]
