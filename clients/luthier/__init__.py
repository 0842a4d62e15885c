"""Luthier: the Python SDK."""
