"""Values and rules of inference."""
