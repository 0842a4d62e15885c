"""Side by side with peers, in one run; each prints one JSON line a ratio. `make bench`."""
