"""What the templates say of each kind, besides its files."""

from __future__ import annotations

from dataclasses import dataclass

_SHARED = "what counts as a bad pixel, and the units"


@dataclass(frozen=True)
class Kind:
    """One kind of modality.

    Attributes
    ----------
    noun
        Last word of the key.
    files_are
        Last word of the reader's name.
    prefix
        Of the names of the reader's and the simulator's class.
    what, row
        What is measured: in a sentence, and in the table of modalities.
    units, tokens, codes
        As in that table.
    recipe
        Further arguments of ``aion tokenizer train`` that make a small tokenizer.
    helper, helper_what
        The module between files and observations, or between observations and codes; what it decides.
    files
        What the reader reads, the rest of a sentence.
    """

    noun: str
    files_are: str
    prefix: str
    what: str
    row: str
    units: str
    tokens: str
    codes: str
    files: str
    recipe: str = ""
    helper: str = "preprocess"
    helper_what: str = _SHARED

    def words(self) -> dict[str, str]:
        """Return what stands in the templates."""
        return {
            "reader_class": f"{self.prefix}Reader",
            "simulator_class": f"{self.prefix}Simulator",
            "reader_title": self.row,
            "what": self.what,
            "row": self.row,
            "units": self.units,
            "tokens": self.tokens,
            "codes": self.codes,
            "recipe": self.recipe,
            "helper": self.helper,
            "helper_what": self.helper_what,
            "files": self.files,
        }


KINDS: dict[str, Kind] = {
    "image": Kind(
        noun="image",
        files_are="coadds",
        prefix="Image",
        what="images in three bands",
        row="g, r, i coadd image, 96 × 96 pixels",
        units="`nJy`",
        tokens="24×24",
        codes="4375",
        recipe=" --preset small-image",
        files=(
            "FITS files with flux, variance and flags of a piece of sky in each band (HDUs `SCIENCE_G`, `VARIANCE_G`, "
            "`FLAGS_G`, …), and a table `CATALOG` (`ID`, `RA`, `DEC`). Every object of the table becomes a stamp of "
            "96 × 96 pixels; nothing is interpolated. Bad are pixels that are saturated, hit by a cosmic ray or "
            "without data, those without a variance, and those beyond the edge. An object without a good pixel, or "
            "off the image, is skipped."
        ),
    ),
    "spectrum": Kind(
        noun="spectrum",
        files_are="spectra",
        prefix="Spectrum",
        what="spectra",
        row="optical spectrum",
        units="`1e-17 erg / (s cm2 Angstrom)`",
        tokens="273",
        codes="1024",
        recipe=" --preset small-spectrum",
        helper_what="what counts as a bad pixel, units, and the scale of wavelengths",
        files=(
            "FITS files with the spectra of a pointing: flux, inverse variance and flags, a row for each (HDUs "
            "`FLUX`, `IVAR`, `FLAGS`), their wavelengths in air (`WAVELENGTH`), and a table `OBJECTS` (`ID`, `RA`, "
            "`DEC`). Bad are pixels without data, hit by a cosmic ray or on a bright sky line, and those without "
            "inverse variance. A spectrum without a good pixel is skipped."
        ),
    ),
    "coefficients": Kind(
        noun="coefficients",
        files_are="tables",
        prefix="Coefficient",
        what="spectra as coefficients of basis functions",
        row="low-resolution spectrum, 16 coefficients",
        units="`electron / s`",
        tokens="16",
        codes="1024",
        helper_what="the units, and which coefficients can be used",
        files=(
            "FITS tables with a row for each object: `ID`, `RA`, `DEC`, `EXPOSURE` and `COEFFICIENTS`. Where one of "
            "an object's coefficients is not finite, it has none."
        ),
    ),
    "scalar": Kind(
        noun="flux",
        files_are="catalogues",
        prefix="Catalogue",
        what="one number for each object",
        row="r-band total flux",
        units="`nJy`",
        tokens="1",
        codes="1024",
        helper="tokenizer",
        helper_what="how the number is turned into a code",
        files=(
            "FITS tables with a row for each object: `ID`, `RA`, `DEC`, `FLUX`, `FLAGS`. Rows flagged as artefacts "
            "are skipped; a flux flagged as unreliable, or not finite, is absent."
        ),
    ),
    "scalar_field": Kind(
        noun="map",
        files_are="maps",
        prefix="Map",
        what="maps of a number between 0 and 1",
        row="map of a probability, 96 × 96 pixels",
        units="–",
        tokens="12×12",
        codes="1000",
        recipe=" --preset small-scalar-field",
        helper_what="what a pixel of 0, of 1 and without data is",
        files=(
            "FITS files with a cube `MAPS` of 96 × 96 pixels for each object (bytes: 0 … 250, 255 without data), and "
            "a table `OBJECTS` (`ID`, `RA`, `DEC`). A map of which no pixel is known is skipped."
        ),
    ),
    "source_list": Kind(
        noun="sources",
        files_are="lists",
        prefix="List",
        what="the sources around each object",
        row="the ten sources nearest the centre",
        units="–",
        tokens="≤ 50",
        codes="3468",
        helper_what="conventions of positions and shapes",
        files=(
            "FITS files with a table `OBJECTS` (`ID`, `RA`, `DEC`, `FIRST`, `COUNT`) and a table `SOURCES` of the "
            "sources around them: offsets `EAST`, `NORTH`, half-axes `A`, `B` (arcsec), position angle `THETA` "
            "(degrees)."
        ),
    ),
}
