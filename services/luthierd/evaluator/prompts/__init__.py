"""Prompts as a resource, and the search for them on validation rows."""
