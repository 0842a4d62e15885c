"""Rows in and out, parsing of answers, slices, leakage."""
