"""Correct and fast LoRA for vLLM on a CPU.

Stock vLLM 0.32 gathers ``weights[slot]`` for each token. A request without an adapter has slot -1, so in a mixed
batch it silently gets the *last* slot's adapter (vllm 48421, 49656, open), and the gather copies a whole matrix per
token. `plugin` replaces the class that applies adapters with `punica.LuthierPunicaWrapper`. On platforms other than the
CPU it does nothing.
"""
