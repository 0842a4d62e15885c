"""Databases and blobs: SQLite and a folder on one machine, PostgreSQL and S3 beyond it, by URL."""
