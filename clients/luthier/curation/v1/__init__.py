"""Generated from protos/luthier/curation; `make protos` rewrites it."""
