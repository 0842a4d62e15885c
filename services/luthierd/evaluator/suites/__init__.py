"""What an evaluation asks beyond the holdout: difficult cases, forgetting, bias, tasks of lm-eval."""
