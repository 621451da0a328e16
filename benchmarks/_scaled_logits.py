"""A Llama from scratch whose logits are a number of times as large, as a backbone to train: Granite's architecture is a
Llama with factors, and all of them are 1 here but for the one that logits are divided by.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ilrec_cli import artifacts
from ilrec_cli.config import build, read_yaml
from ilrec_cli.settings import Train
from ilrec_cli.stages._backbones import open_backbone


def make(folder: Path, scale: float, settings: Path, seed: int, data: Path) -> None:
    """Write the folder: weights and tokenizer are those that `train --config settings --seed seed` starts from."""
    from transformers import GraniteForCausalLM

    opened = open_backbone(
        build(Train, read_yaml(settings) | {"seed": seed}, str(settings)), artifacts.read(data, "data")
    )
    model = GraniteForCausalLM(_granite(opened.model.config, scale))
    model.load_state_dict(opened.model.state_dict())
    aside = folder.with_name("aside")
    model.save_pretrained(aside)
    opened.tokenizer.save_pretrained(aside)
    aside.rename(folder)


def _granite(llama: Any, scale: float) -> Any:
    from transformers import GraniteConfig

    known = GraniteConfig().to_dict().keys() - {"model_type", "architectures", "transformers_version"}
    same = {key: value for key, value in llama.to_dict().items() if key in known}
    return GraniteConfig(**same, attention_multiplier=llama.head_dim**-0.5, logits_scaling=1 / scale)
