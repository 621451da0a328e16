"""A small byte-level tokenizer trained on the spot, for backbones that start from scratch; text identifiers as ids."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ilrec_cli.errors import UserError

BOS, EOS, PAD = "<s>", "</s>", "<pad>"


def train(texts: Iterable[str], vocabulary: int, *, adds_bos: bool) -> Any:
    """A fast tokenizer: byte-level BPE, so any text can be spelled; merges come from the texts.

    `adds_bos` puts <s> before every text, as Llama's tokenizers do and Qwen's do not.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[BOS, EOS, PAD], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    if adds_bos:
        bos = (BOS, tokenizer.token_to_id(BOS))
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[bos])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD)


def text_paths(texts: list[str], tokenizer: Any) -> list[list[int]]:
    """The token ids of each text on its own, as they stand in histories and answers alike.

    No start or end token is added, and text that spells one is split like any other. `UserError` for a text that comes
    to nothing.
    """
    rows = tokenizer(texts, add_special_tokens=False, split_special_tokens=True, verbose=False).input_ids
    paths: list[list[int]] = [list(row) for row in rows]
    for text, path in zip(texts, paths, strict=True):
        if not path or tokenizer.eos_token_id in path:
            what = "an end token" if path else "no token at all"
            raise UserError(
                f"the tokenizer makes {what} of the identifier {text[:60]!r}; use another scheme or backbone"
            )
    return paths
