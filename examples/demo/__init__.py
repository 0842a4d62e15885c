"""The whole loop, shown in the terminal: `make demo`."""
