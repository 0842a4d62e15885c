"""Evaluations in rounds that stop asking where a difference is decided."""
