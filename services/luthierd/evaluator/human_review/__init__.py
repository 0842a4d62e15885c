"""Annotation queues: people compare or rate answers."""
