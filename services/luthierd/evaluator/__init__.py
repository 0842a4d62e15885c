"""The evaluator: adapters against their base model, prompting and retrieval; verdicts and gates with intervals."""
