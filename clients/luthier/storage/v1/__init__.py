"""Generated from protos/luthier/storage; `make protos` rewrites it."""
