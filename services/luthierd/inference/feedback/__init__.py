"""Feedback about answers, and their capture for tenants that opted in."""
