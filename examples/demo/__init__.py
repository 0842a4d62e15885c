"""The main job, told in the terminal: `make demo`."""
