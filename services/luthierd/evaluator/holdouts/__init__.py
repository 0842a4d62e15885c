"""Holdouts: the ledger of looks at them, their final slice, and what leaked into them."""
