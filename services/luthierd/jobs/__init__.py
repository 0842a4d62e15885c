"""Long work: a durable queue with leases, workers as processes of their own, and their events."""
