"""Admission: quotas of tenants, and whose request the engine takes next."""
