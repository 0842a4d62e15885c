"""Long-running work: a durable queue with leases, worker processes, and their events."""
