"""Scorers, one idea a file. Each turns (reference, answer) readings into one score a row, through RAGAS where it has
the metric.
"""
