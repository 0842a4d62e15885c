"""Retrieval: passages, indexes over them, and which retriever is the strongest."""
