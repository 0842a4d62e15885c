"""Generated from protos/luthier/options; `make protos` rewrites it."""
