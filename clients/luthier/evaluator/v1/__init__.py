"""Generated from protos/luthier/evaluator; `make protos` rewrites it."""
