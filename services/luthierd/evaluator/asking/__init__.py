"""Asking: what each arm says to the model, who answers it, and what an answer took."""
