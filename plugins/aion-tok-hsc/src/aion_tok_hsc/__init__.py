"""AION plugin: Hyper Suprime-Cam images and photometry as token streams."""
