"""What this distribution tells aion-core: data only, nothing heavy is imported here."""

from __future__ import annotations

from aion_core.contract import ModalitySpec, ReaderSpec, SimulatorSpec
from aion_core.plugins import hookimpl
from aion_tok_legacy.specs import MODALITIES

api_version = 1

SCALARS = tuple(spec.key for spec in MODALITIES if spec.kind == "scalar")


@hookimpl
def aion_modalities() -> list[ModalitySpec]:
    return list(MODALITIES)


@hookimpl
def aion_readers() -> list[ReaderSpec]:
    return [
        ReaderSpec(
            name="legacy_catalogue",
            title="Legacy Surveys catalogues: sweep, tractor and target files",
            patterns=("*.fits", "*.fits.gz"),
            reader="aion_tok_legacy.reader:CatalogueReader",
            modalities=(*SCALARS, "catalog_sources"),
        ),
        ReaderSpec(
            name="legacy_image",
            title="Legacy Surveys images: coadds of bricks and cut-outs, with the brick's tractor catalogue",
            patterns=("*.fits", "*.fits.gz", "*.fits.fz"),
            reader="aion_tok_legacy.images:ImageReader",
            modalities=("legacy_image", "legacy_segmap", *SCALARS, "catalog_sources"),
        ),
    ]


@hookimpl
def aion_simulators() -> list[SimulatorSpec]:
    return [
        SimulatorSpec(
            name="legacy_brick",
            modalities=(*(spec.key for spec in MODALITIES), "catalog_sources"),
            simulator="aion_tok_legacy.simulator:BrickSimulator",
        )
    ]
