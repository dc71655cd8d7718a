"""What the Legacy Surveys measure: an image, a segmentation map, and twelve numbers of the Tractor catalogue.

Fluxes are nanomaggies as in the catalogue (AB, zero point 22.5; 1 nmgy = 3.631e-6 Jy), written ``nmgy``, the name
under which astropy knows the unit; `astropy.units.zero_point_flux` converts it.

Sources: Dey et al. 2019 (AJ 157, 168); W1 to W4 from WISE, Wright et al. 2010 (AJ 140, 1868); E(B-V) from
Schlegel, Finkbeiner & Davis 1998 (ApJ 500, 525).
"""

from __future__ import annotations

from math import exp

from aion_core.contract import Band, ModalitySpec, Provenance, TokenizerSpec

#: The first 63 bits of SHA-256 of ``urn:aion:<key>``; written out because they may never change.
PROVENANCE = {
    "legacy_image": 2163542364114799309,
    "legacy_segmap": 1342260559079252053,
    "legacy_flux_g": 6216789750191241460,
    "legacy_flux_r": 4519344212779004199,
    "legacy_flux_i": 836965753197997497,
    "legacy_flux_z": 2823621156516711706,
    "legacy_flux_w1": 3624652035194193775,
    "legacy_flux_w2": 901908214322730320,
    "legacy_flux_w3": 622953879043253334,
    "legacy_flux_w4": 198668654347133605,
    "legacy_ebv": 3253362190821078072,
    "legacy_shape_r": 226824829208006934,
    "legacy_shape_e1": 3871888649783527334,
    "legacy_shape_e2": 1646667279186747785,
}

#: Band -> UCD of the spectral range that it lies in.
BANDS = {
    "g": "em.opt.B",
    "r": "em.opt.R",
    "i": "em.opt.I",
    "z": "em.opt.I",
    "w1": "em.IR.3-4um",
    "w2": "em.IR.4-8um",
    "w3": "em.IR.8-15um",
    "w4": "em.IR.15-30um",
}

SURVEY = "Legacy Surveys"
PAPER = "Dey et al. 2019, AJ 157, 168"
WISE_PAPER = "Wright et al. 2010, AJ 140, 1868"
DUST_PAPER = "Schlegel, Finkbeiner & Davis 1998, ApJ 500, 525"

PLAIN = TokenizerSpec(path="aion_core.tokenizers.scalar:QuantileTokenizer")
#: Values below exp(-3), negative fluxes included, share the lowest code.
LOGARITHMIC = TokenizerSpec(path="aion_core.tokenizers.scalar:LogQuantileTokenizer", config={"min_value": exp(-3)})


def _provenance(key: str, instrument: str = "DECam, Blanco 4-m") -> Provenance:
    return Provenance(id=PROVENANCE[key], instrument=instrument, release="DR10", doi="10.3847/1538-3881/ab089d")


def _scalar(
    name: str,
    title: str,
    quantity: str,
    units: str,
    tokenizer: TokenizerSpec = PLAIN,
    citation: str = PAPER,
    instrument: str = "DECam, Blanco 4-m",
) -> ModalitySpec:
    key = f"legacy_{name}"
    return ModalitySpec(
        key=key,
        upstream_key=f"tok_{name}",
        upstream_codec=name.upper(),
        survey=SURVEY,
        title=title,
        citation=citation,
        kind="scalar",
        quantity=quantity,
        units=units,
        vocab_size=1024,
        shape=(1,),
        position="scalar",
        provenance=_provenance(key, instrument),
        tokenizer=tokenizer,
    )


def _flux(band: str) -> ModalitySpec:
    infrared = band.startswith("w")
    return _scalar(
        f"flux_{band}",
        f"{band.upper() if infrared else band}-band total flux",
        f"phot.flux;{BANDS[band]}",
        "nmgy",
        LOGARITHMIC,
        f"{PAPER}; {WISE_PAPER}" if infrared else PAPER,
        "WISE, forced photometry" if infrared else "DECam, Blanco 4-m",
    )


#: Limit of the flux in nanomaggies, and channel in the release, of every band of the images.
IMAGE_BANDS = {"g": (6.0, 5), "r": (15.0, 6), "i": (20.0, 7), "z": (25.0, 8)}

IMAGE_TOKENIZER = TokenizerSpec(
    path="aion_core.tokenizers.image:ImageTokenizer",
    config={"quantizer_levels": [7, 5, 5, 5, 5]},
    bands=tuple(
        Band(name=f"DES-{b.upper()}", limit=limit, zero_point=22.5, pixel_scale=0.262, upstream_channel=channel)
        for b, (limit, channel) in IMAGE_BANDS.items()
    ),
)

SEGMAP_TOKENIZER = TokenizerSpec(
    path="aion_core.tokenizers.field:ScalarFieldTokenizer",
    config={"levels": [8, 5, 5, 5]},
)

IMAGE = ModalitySpec(
    key="legacy_image",
    upstream_key="tok_image",
    upstream_codec="image",
    survey=SURVEY,
    title="g, r, i, z coadd image, 96 × 96 pixels",
    citation=PAPER,
    kind="image",
    quantity="phot.flux;obs.image",
    units="nmgy",
    vocab_size=4375,
    shape=(24, 24),
    position="grid2d",
    provenance=_provenance("legacy_image"),
    tokenizer=IMAGE_TOKENIZER,
)

SEGMAP = ModalitySpec(
    key="legacy_segmap",
    upstream_key="tok_segmap",
    upstream_codec="segmentation_map",
    survey=SURVEY,
    title="segmentation map of the detected sources, 96 × 96 pixels, values 0 to 1",
    citation=PAPER,
    kind="scalar_field",
    quantity="meta.code.class;obs.image",
    units="",
    vocab_size=1000,
    shape=(12, 12),
    position="grid2d",
    provenance=_provenance("legacy_segmap"),
    tokenizer=SEGMAP_TOKENIZER,
)

MODALITIES = (
    IMAGE,
    SEGMAP,
    *map(_flux, BANDS),
    _scalar(
        "ebv",
        "Galactic reddening E(B-V)",
        "phot.color.excess",
        "mag",
        citation=f"{PAPER}; {DUST_PAPER}",
        instrument="IRAS and COBE/DIRBE dust map",
    ),
    _scalar("shape_r", "half-light radius", "phys.angSize;src.morph", "arcsec", LOGARITHMIC),
    _scalar("shape_e1", "ellipticity component e1", "src.ellipticity", ""),
    _scalar("shape_e2", "ellipticity component e2", "src.ellipticity", ""),
)
