"""Databases and blobs: SQLite and a folder on one machine, PostgreSQL and S3 for several, chosen by URL."""
