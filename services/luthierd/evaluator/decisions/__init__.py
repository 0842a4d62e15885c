"""What follows from scores: gates, verdicts, the holdout ledger."""
