"""The trainer's values and rules."""
