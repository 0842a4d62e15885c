"""Values and rules of the evaluator."""
