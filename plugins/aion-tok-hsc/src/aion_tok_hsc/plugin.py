"""What this distribution tells aion-core: data only, nothing heavy is imported here."""

from __future__ import annotations

from aion_core.contract import ModalitySpec, ReaderSpec, SimulatorSpec
from aion_core.plugins import hookimpl
from aion_tok_hsc.specs import MODALITIES

api_version = 1


@hookimpl
def aion_modalities() -> list[ModalitySpec]:
    return list(MODALITIES)


@hookimpl
def aion_simulators() -> list[SimulatorSpec]:
    return [
        SimulatorSpec(
            name="hsc_cutout",
            modalities=tuple(spec.key for spec in MODALITIES),
            simulator="aion_tok_hsc.simulator:CutoutSimulator",
        )
    ]


@hookimpl
def aion_readers() -> list[ReaderSpec]:
    scalars = tuple(spec.key for spec in MODALITIES if spec.kind == "scalar")
    return [
        ReaderSpec(
            name="hsc_catalogue",
            title="HSC-SSP catalogues as the archive's database returns them: FITS or CSV",
            patterns=("*.fits", "*.fits.gz", "*.csv", "*.csv.gz"),
            reader="aion_tok_hsc.reader:CatalogueReader",
            modalities=scalars,
        ),
        ReaderSpec(
            name="hsc_image",
            title="HSC-SSP cut-outs and coadds, one file for each band",
            patterns=("*.fits", "*.fits.gz", "*.fits.fz", "*.npz"),
            reader="aion_tok_hsc.images:ImageReader",
            modalities=("hsc_image", *scalars),
        ),
    ]
