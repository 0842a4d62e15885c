"""Stages of curation: one file each, found by name. See `stage.py`."""
