"""Recipes: each a flat loop that reads as a document, and the blocks they are made of. The only place with torch."""
