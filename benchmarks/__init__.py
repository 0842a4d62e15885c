"""Comparisons with peers in the same run; each prints one JSON line per ratio. `make bench`."""
