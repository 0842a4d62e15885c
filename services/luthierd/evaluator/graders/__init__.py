"""Model graders: a judge, its prompts, its stored judgements."""
