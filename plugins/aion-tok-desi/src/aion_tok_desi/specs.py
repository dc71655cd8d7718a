"""What DESI measures: optical spectra, 3600 to 9824 Å in vacuum.

Sources: survey and release DESI Collaboration 2024 (AJ 168, 58); instrument DESI Collaboration 2022 (AJ 164, 207).
"""

from __future__ import annotations

from aion_core.contract import ModalitySpec, Provenance, TokenizerSpec

SPECTRUM = ModalitySpec(
    key="desi_spectrum",
    upstream_key="tok_spectrum_desi",
    upstream_codec="spectrum",
    survey="DESI",
    title="coadded optical spectrum, cameras b, r and z",
    citation="DESI Collaboration 2024, AJ 168, 58",
    kind="spectrum",
    quantity="phot.flux.density;em.wl",
    units="1e-17 erg / (s cm2 Angstrom)",
    vocab_size=1024,
    shape=(273,),
    position="grid2d",
    provenance=Provenance(
        id=2633442586650647246,  # the first 63 bits of SHA-256 of "urn:aion:desi_spectrum"
        instrument="DESI spectrographs, Mayall 4-m",
        release="EDR, DR1",
        doi="10.3847/1538-3881/ad3217",
    ),
    tokenizer=TokenizerSpec(path="aion_core.tokenizers.spectrum:SpectrumTokenizer", range=(3600.0, 9824.0)),
)

MODALITIES = (SPECTRUM,)
