"""AION plugin: DESI spectra as token streams."""
