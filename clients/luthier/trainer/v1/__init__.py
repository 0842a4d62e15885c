"""Generated from protos/luthier/trainer; `make protos` rewrites it."""
