"""Completions: generate, chat, batch, score, embed."""
