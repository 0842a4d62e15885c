"""vLLM's own benchmark, `vllm bench serve`, with streamed chats. It has no other calls."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile

from checks import KEY, MODEL, URL, report


def chat():
    with tempfile.TemporaryDirectory() as folder:
        command = [
            "vllm",
            "bench",
            "serve",
            "--backend",
            "openai-chat",
            "--base-url",
            URL.removesuffix("/v1"),
            "--endpoint",
            "/v1/chat/completions",
            "--model",
            MODEL,
            "--tokenizer",
            os.environ["LUTHIER_TOKENIZER"],
            "--dataset-name",
            "random",
            "--random-input-len",
            "16",
            "--random-output-len",
            "8",
            "--num-prompts",
            "4",
            "--save-result",
            "--result-dir",
            folder,
            "--result-filename",
            "result.json",
            "--disable-tqdm",
        ]
        path = pathlib.Path(sys.executable).with_name(command[0])
        ran = subprocess.run(
            [path, *command[1:]], env=os.environ | {"OPENAI_API_KEY": KEY}, capture_output=True, text=True, check=False
        )
        if ran.returncode:
            raise RuntimeError(ran.stdout[-1000:] + ran.stderr[-1000:])
        result = json.loads((pathlib.Path(folder) / "result.json").read_text())
    if (result["completed"], result["total_output_tokens"]) != (4, 32):
        raise RuntimeError(str(result)[:500])
    return f"{result['output_throughput']:.1f} tokens/s"


report(chat=chat)
