"""The gRPC servicer, and what crosses the wire."""
