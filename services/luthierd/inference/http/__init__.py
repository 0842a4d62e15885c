"""The OpenAI-compatible endpoint: vLLM's own serving code behind our tokens, leases and quotas."""
