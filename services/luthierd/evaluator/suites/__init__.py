"""Suites beyond the holdout: challenge cases, forgetting, bias, tasks of lm-eval."""
