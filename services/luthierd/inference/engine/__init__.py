"""Engines behind the `Engine` Protocol of `engine_host`. The only place, with the plugin, that imports vLLM."""
