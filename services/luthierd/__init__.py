"""The Luthier servers: curation, trainer, evaluator, inference."""
