"""Headers of FITS files that may be damaged. Imports astropy: to be imported where a file is read."""

from __future__ import annotations

from typing import Any

from astropy.io import fits


class LenientHeader(fits.Header):  # type: ignore[misc]  # astropy is untyped
    """A header in which a card that cannot be parsed counts as missing, as its readers expect of any card."""

    def __getitem__(self, key: Any) -> Any:
        try:
            return super().__getitem__(key)
        except fits.VerifyError as error:
            raise KeyError(str(error)) from None
