"""AION plugin: SDSS spectra as token streams."""
