"""Answers of every kind: from a request to a lease, the engine and the stream."""
