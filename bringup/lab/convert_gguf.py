"""Turns a GGUF model into safetensors; runs in a throw-away environment that has torch and transformers.

Usage: python convert_gguf.py FOLDER FILE.gguf OUT
"""

import sys

import torch  # type: ignore[import-not-found,unused-ignore]
from transformers import (  # type: ignore[import-not-found,unused-ignore]
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
)


def convert(folder: str, gguf_file: str, out: str) -> None:
    """Write the weights as bfloat16, the configuration and the tokenizer to the folder `out`."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=gguf_file, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    # The weights are no longer quantised; were this left in, vLLM would look for a GGUF file.
    vars(model.config).pop("quantization_config", None)
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(folder, gguf_file=gguf_file).save_pretrained(out)


if __name__ == "__main__":
    convert(*sys.argv[1:])
