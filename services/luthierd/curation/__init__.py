"""Datasets and their immutable revisions: import, clean, deduplicate, anonymise, split, explain."""
