"""Bases in 8 or 4 bits under LoRA (QLoRA, arXiv 2305.14314), by bitsandbytes on a CUDA GPU.

Norms, embeddings and head keep the number format they are loaded in. PEFT's `prepare_model_for_kbit_training` would
turn all of them into float32 unasked; what is needed of it (frozen weights) the adapters do.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch

from ilrec_cli.errors import UserError


def settings(quantize: str) -> dict[str, Any]:
    """What `from_pretrained` takes besides; nothing for none. `UserError` where this machine cannot."""
    if quantize == "none":
        return {}
    if not torch.cuda.is_available():
        raise UserError(f"--quantize {quantize} needs a CUDA GPU, and torch finds none here; see: ilrec doctor")
    if find_spec("bitsandbytes") is None:
        raise UserError(f"--quantize {quantize} needs bitsandbytes. Install it: pip install 'ilrec[qlora]'")
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_8bit=quantize == "8bit",
        load_in_4bit=quantize == "4bit",
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {"quantization_config": config, "device_map": {"": torch.cuda.current_device()}}
