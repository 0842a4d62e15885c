"""Differences by group, intervals, tests."""
