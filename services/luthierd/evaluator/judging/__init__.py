"""Judges: models that grade answers, and what is kept of their judgements."""
