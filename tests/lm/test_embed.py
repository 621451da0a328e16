"""Mean pooling against one text at a time without padding, for encoders and decoders; stops and number formats."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ilrec_cli.console import Console
from ilrec_cli.errors import UserError
from ilrec_cli.lm import embed, tokenizer

TEXTS = ["Alder Classic Tent", "", "tent", "Ünïcode ☂ 傘", "a much longer text about tents and kettles and tents " * 4,
         "Kettle", "tent", "Alder Classic Tent, two persons"]  # fmt: skip
SIZES = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 64}


def bert(vocabulary: int, **more: Any) -> Any:
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig(vocab_size=vocabulary, initializer_range=0.3, **(SIZES | more)))


def roberta(vocabulary: int, **more: Any) -> Any:
    from transformers import RobertaConfig, RobertaModel

    config = RobertaConfig(vocab_size=vocabulary, pad_token_id=2, initializer_range=0.3, **(SIZES | more))
    return RobertaModel(config)


def qwen2(vocabulary: int, **more: Any) -> Any:
    from transformers import Qwen2Config, Qwen2Model

    return Qwen2Model(
        Qwen2Config(vocab_size=vocabulary, num_key_value_heads=2, initializer_range=0.3, **(SIZES | more))
    )


def gpt2(vocabulary: int, **more: Any) -> Any:
    """Positions are a table, and there is no token for padding."""
    from transformers import GPT2Config, GPT2Model

    return GPT2Model(GPT2Config(vocab_size=vocabulary, n_layer=2, n_head=4, n_embd=32, initializer_range=0.3, **more))


def t5(vocabulary: int, **more: Any) -> Any:
    """Encoder and decoder: the encoder alone is used."""
    from transformers import T5Config, T5Model

    return T5Model(T5Config(vocab_size=vocabulary, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, **more))


MODELS = [bert, roberta, qwen2, gpt2, t5]


def saved(folder: Path, build: Callable[..., Any], *, adds_bos: bool = True, **more: Any) -> Path:
    tok = tokenizer.train([text for text in TEXTS if text], 320, adds_bos=adds_bos)
    torch.manual_seed(0)
    build(len(tok), **more).save_pretrained(folder)
    tok.padding_side, tok.truncation_side = "left", "left"  # as many decoders are saved
    if build is gpt2:
        tok.pad_token = None
    tok.save_pretrained(folder)
    return folder


def settings(folder: Path, **more: Any) -> embed.Settings:
    return embed.Settings(
        **{"name": str(folder), "dtype": "float32", "max_tokens": 512, "batch_size": 3, "device": "cpu"} | more
    )


def pooled(folder: Path, texts: list[str], shards: Path | None = None, **more: Any) -> np.ndarray:
    return embed.mean_pooled(texts, settings(folder, **more), console=Console(quiet=True), shards=shards)


def one_by_one(folder: Path, texts: list[str], longest: int = 512) -> np.ndarray:
    """The mean over a text's own tokens, alone in its batch: no padding, no mask."""
    from transformers import AutoModel, AutoTokenizer

    tok, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    model = model.get_encoder() if model.config.is_encoder_decoder else model
    rows = []
    with torch.no_grad():
        for text in texts:
            ids = tok(text).input_ids[:longest]
            hidden_SD = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
            rows.append(sum(hidden_SD.double().numpy()) / len(ids))
    return np.array(rows)


@pytest.mark.parametrize("build", MODELS)
def test_batches_equal_one_text_at_a_time(build: Callable[..., Any], tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", build)
    expected = one_by_one(folder, TEXTS)
    for size in (1, 3, 100):
        np.testing.assert_allclose(pooled(folder, TEXTS, batch_size=size), expected, atol=3e-6, rtol=1e-5)
    assert abs(expected[0] - expected[5]).max() > 0.01, "texts differ by more than the tolerance"


@pytest.mark.parametrize("build", [bert, qwen2])
def test_the_order_of_texts_moves_no_bit(build: Callable[..., Any], tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", build)
    order = np.random.default_rng(1).permutation(len(TEXTS))
    straight = pooled(folder, TEXTS)
    assert np.array_equal(pooled(folder, [TEXTS[row] for row in order]), straight[order])
    assert np.array_equal(straight[2], straight[6]), "equal texts have equal vectors"


def test_long_texts_are_cut_at_the_end_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = saved(tmp_path / "model", qwen2)
    found = pooled(folder, TEXTS, max_tokens=5)
    np.testing.assert_allclose(found, one_by_one(folder, TEXTS, longest=5), atol=3e-6)
    assert "different texts are cut at 5 tokens" in capsys.readouterr().err


def test_a_cut_text_keeps_its_end_token(tmp_path: Path) -> None:
    """As the tokenizer cuts for a model that was trained with [SEP]: the last word goes, not the mark."""
    from tokenizers import processors

    folder = saved(tmp_path / "model", bert)
    tok = tokenizer.train([text for text in TEXTS if text], 320, adds_bos=True)
    marks = [(mark, tok.convert_tokens_to_ids(mark)) for mark in ("<s>", "</s>")]
    tok.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=marks)
    tok.save_pretrained(folder)
    encoder = embed.Encoder(settings(folder, max_tokens=6))
    (ids,) = encoder.tokens([TEXTS[4]], Console(quiet=True))
    assert len(ids) == 6
    assert ids == [*tok(TEXTS[4]).input_ids[:5], tok.eos_token_id]


@pytest.mark.parametrize(("build", "allowed"), [(bert, 12), (roberta, 9), (gpt2, 12), (qwen2, 12)])
def test_no_text_runs_past_the_models_positions(build: Callable[..., Any], allowed: int, tmp_path: Path) -> None:
    """Positions of RoBERTa's kind begin behind the padding id, which is 2 here."""
    limit = {"n_positions": 12} if build is gpt2 else {"max_position_embeddings": 12}
    folder = saved(tmp_path / "model", build, **limit)
    assert embed.Encoder(settings(folder)).allowed == allowed
    assert np.isfinite(pooled(folder, TEXTS)).all()


def test_an_empty_text_without_start_token_is_zero(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", qwen2, adds_bos=False)
    vectors = pooled(folder, TEXTS)
    assert not vectors[1].any()
    assert vectors[0].any()
    assert not pooled(folder, ["", ""]).any()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("build", [bert, qwen2])
def test_half_precision_is_close_but_not_the_same(build: Callable[..., Any], dtype: str, tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", build)
    full, half = pooled(folder, TEXTS), pooled(folder, TEXTS, dtype=dtype)
    assert half.dtype == np.float32
    cosine = (full * half).sum(1) / np.linalg.norm(full, axis=1) / np.linalg.norm(half, axis=1)
    assert cosine.min() > 0.999
    assert abs(full - half).max() > 1e-5


def test_numbers_that_overflow_are_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", bert)
    from transformers import BertModel

    model = BertModel.from_pretrained(folder)
    torch.nn.init.constant_(model.encoder.layer[-1].output.LayerNorm.weight, 1e6)
    model.save_pretrained(folder)
    with pytest.raises(UserError, match="overflow in float16"):
        pooled(folder, TEXTS, dtype="float16")


@pytest.mark.parametrize("calls", [0, 1, 2])
def test_a_stopped_encode_goes_on_with_the_same_bytes(
    calls: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, shards = saved(tmp_path / "model", bert), tmp_path / "shards"
    straight, real, done = pooled(folder, TEXTS), embed.Encoder.pool, []

    def stops(self: Any, tokens: list[list[int]]) -> np.ndarray:
        if len(done) == calls:
            raise KeyboardInterrupt
        done.append(len(tokens))
        return real(self, tokens)

    monkeypatch.setattr(embed.Encoder, "pool", stops)
    with pytest.raises(KeyboardInterrupt):
        pooled(folder, TEXTS, shards)
    again: list[int] = []
    monkeypatch.setattr(embed.Encoder, "pool", lambda self, tokens: again.append(len(tokens)) or real(self, tokens))
    assert np.array_equal(pooled(folder, TEXTS, shards), straight)
    assert len(again) == 3 - calls, "seven different texts in batches of three: finished ones are not computed again"
    assert np.array_equal(pooled(folder, TEXTS, shards), straight)
    assert len(again) == 3 - calls


def test_a_kill_costs_the_last_half_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finished batches reach the disk while the work goes on, not only when the block ends."""
    monkeypatch.setattr(embed, "SHARD_SECONDS", 0)
    kept = embed._Shards(tmp_path / "shards")
    kept.add(0, np.ones((2, 3), np.float32))
    kept.add(1, np.zeros((1, 3), np.float32))
    assert sorted(embed._Shards(tmp_path / "shards").found) == [0, 1]


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda folder: (folder / "config.json").unlink(), "holds no config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "safetensors"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"rubbish"), "header"),
        (lambda folder: (folder / "config.json").write_text("{"), "encoder '"),
        (lambda folder: [path.unlink() for path in folder.glob("token*")], "has no tokenizer"),
    ],
)
def test_what_is_no_encoder_is_refused_in_one_line(
    damage: Callable[[Path], Any], expected: str, tmp_path: Path
) -> None:
    folder = saved(tmp_path / "model", bert)
    damage(folder)
    with pytest.raises(UserError, match=expected) as refused:
        pooled(folder, TEXTS)
    assert "\n" not in str(refused.value)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        pooled(tmp_path / "nothing", TEXTS)
