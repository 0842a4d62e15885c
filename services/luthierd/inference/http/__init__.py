"""The OpenAI-compatible endpoint: vLLM's own application behind our tokens, leases and quotas."""
