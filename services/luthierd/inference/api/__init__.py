"""The gRPC servicers, and what crosses the wire."""
