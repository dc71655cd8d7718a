"""What Hyper Suprime-Cam measures: one image, and thirteen numbers of its i-band selected catalogue.

Sources: data release Aihara et al. 2022 (PASJ 74, 247); pipeline, cModel magnitudes and adaptive moments
Bosch et al. 2018 (PASJ 70, S5).
"""

from __future__ import annotations

from aion_core.contract import Band, ModalitySpec, Provenance, TokenizerSpec

#: The first 63 bits of SHA-256 of ``urn:aion:<key>``; written out because they may never change.
PROVENANCE = {
    "hsc_image": 7078083344460186546,
    "hsc_mag_g": 5731177348613539831,
    "hsc_mag_r": 3750686019198374748,
    "hsc_mag_i": 8360170151855301179,
    "hsc_mag_z": 4187161170722442406,
    "hsc_mag_y": 1833608842032005688,
    "hsc_extinction_g": 8934670872847094216,
    "hsc_extinction_r": 152050885345544682,
    "hsc_extinction_i": 8555097908639025688,
    "hsc_extinction_z": 8264844017422639521,
    "hsc_extinction_y": 1141680431513940840,
    "hsc_shape_11": 6700815200299163483,
    "hsc_shape_22": 1518342760319807810,
    "hsc_shape_12": 1933308855886109421,
}

#: Band -> UCD of the spectral range that it lies in.
BANDS = {"g": "em.opt.B", "r": "em.opt.R", "i": "em.opt.I", "z": "em.opt.I", "y": "em.opt.I"}

SURVEY = "HSC-SSP"
RELEASE_PAPER = "Aihara et al. 2022, PASJ 74, 247"
PIPELINE_PAPER = "Bosch et al. 2018, PASJ 70, S5"


def _provenance(key: str) -> Provenance:
    return Provenance(
        id=PROVENANCE[key],
        instrument="Hyper Suprime-Cam, Subaru Telescope",
        release="PDR3",
        doi="10.1093/pasj/psab122",
    )


def _scalar(name: str, upstream: str, column: str, title: str, quantity: str, units: str) -> ModalitySpec:
    key = f"hsc_{name}"
    return ModalitySpec(
        key=key,
        upstream_key=upstream,
        upstream_codec=column,
        survey=SURVEY,
        title=title,
        citation=f"{RELEASE_PAPER}; {PIPELINE_PAPER}",
        kind="scalar",
        quantity=quantity,
        units=units,
        vocab_size=1024,
        shape=(1,),
        position="scalar",
        provenance=_provenance(key),
        tokenizer=TokenizerSpec(path="aion_core.tokenizers.scalar:QuantileTokenizer"),
    )


#: Limit of the flux in counts, and channel in the release, of every band.
IMAGE_BANDS = {"g": (80.0, 0), "r": (110.0, 1), "i": (200.0, 2), "z": (330.0, 3), "y": (500.0, 4)}

IMAGE_TOKENIZER = TokenizerSpec(
    path="aion_core.tokenizers.image:ImageTokenizer",
    config={"quantizer_levels": [7, 5, 5, 5, 5]},
    bands=tuple(
        Band(name=f"HSC-{b.upper()}", limit=limit, zero_point=27.0, pixel_scale=0.168, upstream_channel=channel)
        for b, (limit, channel) in IMAGE_BANDS.items()
    ),
)

IMAGE = ModalitySpec(
    key="hsc_image",
    upstream_key="tok_image_hsc",
    upstream_codec="image",
    survey=SURVEY,
    title="g, r, i, z, y coadd image, 96 × 96 pixels",
    citation=f"{RELEASE_PAPER}; {PIPELINE_PAPER}",
    kind="image",
    quantity="phot.flux;obs.image",
    units="5.754747e-08 Jy",  # the coadds' count per pixel: AB magnitude 27.0
    vocab_size=4375,
    shape=(24, 24),
    position="grid2d",
    provenance=_provenance("hsc_image"),
    tokenizer=IMAGE_TOKENIZER,
)

MODALITIES = (
    IMAGE,
    *(
        _scalar(f"mag_{b}", f"tok_mag_{b}", f"{b}_cmodel_mag", f"{b}-band cModel magnitude", f"phot.mag;{u}", "mag(AB)")
        for b, u in BANDS.items()
    ),
    *(
        _scalar(
            f"extinction_{b}",
            f"tok_a_{b}",
            f"a_{b}",
            f"{b}-band Galactic extinction",
            f"phys.absorption.gal;{u}",
            "mag",
        )
        for b, u in BANDS.items()
    ),
    *(
        _scalar(
            f"shape_{ij}",
            f"tok_shape{ij}",
            f"i_sdssshape_shape{ij}",
            f"i-band adaptive second moment {ij}",
            "src.morph.param;em.opt.I",
            "arcsec2",
        )
        for ij in ("11", "22", "12")
    ),
)
