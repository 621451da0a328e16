"""Tokenizers of the kinds that backbones have, trained on the spot: each has a trap of its own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from ilrec_cli.lm import templates, tokenizer

# byte-level: Llama-3's, a start token before every text; no-start: Qwen's, none; spaced: Llama-2's, a space before every
# text; padded: Qwen's, a vocabulary smaller than the embedding matrix, with the padding token not at its end.
KINDS = ("byte-level", "no-start", "spaced", "padded")
CHAT = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] | trim }}</s>\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def a_tokenizer(kind: str, items: Iterable[str], *, chat: bool = False) -> Any:
    """A tokenizer of a kind that knows the item tokens."""
    texts = [template.prompt for found in templates.every().values() for template in found]
    if kind == "spaced":
        tok = _spaced(texts)
    else:
        tok = tokenizer.train(texts, 600, adds_bos=kind == "byte-level")
        if kind == "padded":
            tok.add_special_tokens({"pad_token": "<|pad|>"})
    tok.add_tokens([AddedToken(token, normalized=False) for token in sorted(items)])
    if chat:
        tok.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>"]})
        tok.chat_template = CHAT
    return tok


def _spaced(texts: list[str]) -> Any:
    """As SentencePiece's: words begin with a mark for the space, also the first of every text; bytes for what is unknown."""
    made = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])  # fmt: skip
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=900, special_tokens=special, show_progress=False)
    made.train_from_iterator([word for text in texts for word in text.split(" ")], trainer)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
