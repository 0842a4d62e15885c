"""What tests and benchmarks share: services in one process, tiny models, rows, certificates."""
