"""Deployments: what is served under which name, and how that changes while requests run."""
