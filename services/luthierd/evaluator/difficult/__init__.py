"""Difficult cases as a resource: proposed for a dataset, reviewed by people, kept."""
