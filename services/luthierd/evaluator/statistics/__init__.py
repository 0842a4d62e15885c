"""Intervals, tests and corrections. Numbers in, numbers out: nothing here knows of models or rows."""
