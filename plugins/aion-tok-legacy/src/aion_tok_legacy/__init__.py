"""AION plugin: DESI Legacy Imaging Surveys images and photometry as token streams."""
