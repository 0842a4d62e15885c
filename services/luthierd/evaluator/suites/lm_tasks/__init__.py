"""Tasks of lm-evaluation-harness that any machine has: made by `items`, downloaded from nowhere."""
