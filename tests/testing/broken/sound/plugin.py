"""A sound plugin: it passes every rule. Each broken one is this one with a single change (faults.py)."""

from __future__ import annotations

from aion_core.contract import ModalitySpec, Provenance, ReaderSpec, SimulatorSpec, TokenizerSpec
from aion_core.plugins import hookimpl

api_version = 1

FLUX = ModalitySpec(
    key="sound_flux",
    survey="Sound",
    title="r-band flux",
    citation="Doe et al. 2026",
    kind="scalar",
    quantity="phot.flux;em.opt.R",
    units="nmgy",
    vocab_size=64,
    shape=(1,),
    position="scalar",
    provenance=Provenance(id=4611686018427387001, instrument="a camera", release="DR1"),
    tokenizer=TokenizerSpec(path="aion_tok_sound.flux:FluxTokenizer"),
)
SPECTRUM = ModalitySpec(
    key="sound_spectrum",
    survey="Sound",
    title="optical spectrum",
    citation="Doe et al. 2026",
    kind="spectrum",
    quantity="phot.flux.density;em.wl",
    units="1e-17 erg / (s cm2 Angstrom)",
    vocab_size=32,
    shape=(8,),
    position="seq1d",
    provenance=Provenance(id=4611686018427387002, instrument="a spectrograph", release="DR1"),
    tokenizer=TokenizerSpec(path="aion_tok_sound.spectrum:SpectrumTokenizer", config={"step": 2.5}, range=(4000, 9000)),
)


@hookimpl
def aion_modalities() -> list[ModalitySpec]:
    return [FLUX, SPECTRUM]


@hookimpl
def aion_readers() -> list[ReaderSpec]:
    return [
        ReaderSpec(
            name="sound_arrays",
            title="NumPy archives",
            patterns=("*.npz", "*.npz.gz"),
            reader="aion_tok_sound.files:ArrayReader",
            modalities=("sound_flux", "sound_spectrum"),
        )
    ]


@hookimpl
def aion_simulators() -> list[SimulatorSpec]:
    return [
        SimulatorSpec(
            name="sound_survey",
            modalities=("sound_flux", "sound_spectrum"),
            simulator="aion_tok_sound.files:SurveySimulator",
        )
    ]
