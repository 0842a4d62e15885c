"""Several servers with one desired state."""
