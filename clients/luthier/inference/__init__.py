"""Generated from protos/luthier/inference; `make protos` rewrites it."""
