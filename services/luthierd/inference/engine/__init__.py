"""Engines behind the `Engine` Protocol. Only this package imports vLLM, transformers and PEFT."""
