"""The trainer: base models, training jobs, adapters and their lineage."""
