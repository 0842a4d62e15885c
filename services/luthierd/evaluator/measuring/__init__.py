"""Measuring: from answers to scores by row, and from those to figures."""
