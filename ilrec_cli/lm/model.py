"""SupervisedLM: hidden states of the last and the chosen layers, gathered first, projected second, lost chunk by chunk.

Shapes: B rows, S tokens, N supervised positions, D width, V vocabulary, K candidate layers, C children.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from ilrec_cli.errors import UserError
from ilrec_cli.lm.backbone import causal_lm
from ilrec_cli.lm.examples import Batch
from ilrec_cli.lm.heads import LayerHeads
from ilrec_cli.lm.item_rows import head_rows
from ilrec_cli.lm.layer_probe import layer_statistics, task_statistics
from ilrec_cli.lm.responses import Responses
from ilrec_cli.lm.terms import Terms

# (final_NV, inner_KNV, target_N, reward_tokens_NC=..., reward_values_NC=...) -> Terms, or of responses (log_prob_BRT, batch)
Loss = Callable[..., Terms]
T = TypeVar("T")
# Logits of a chunk, all layers together, that the model chooses by itself: 1 GiB of float32, and about 4 GiB with what the
# loss makes of them. A number of positions and not of bytes free, so that the same run has the same chunks everywhere.
CHUNK_LOGITS = 2**28
NORM_NAMES = ("norm", "ln_f", "final_layernorm", "final_layer_norm")


class Rewards(NamedTuple):
    """Collaborative rewards of the tokens that continue an item at each supervised position; padded with -1 and 0."""

    token_NC: Tensor
    value_NC: Tensor | None  # None: only which tokens continue an item is known


class SupervisedLM(nn.Module):
    """A causal LM under a token-level loss. All use of its parameters happens inside `forward`.

    `inner_layers` are the candidate layers l (1 <= l < L); `phi` maps hidden states to logits as the model itself
    does: final norm, head, and what the architecture does after the head. With `layer_heads` the candidate layers have
    norms and adapters of the head of their own. `scope_V` restricts the vocabulary to these tokens (sorted).
    """

    scope_V: Tensor | None

    def __init__(
        self,
        backbone: Any,
        inner_layers: tuple[int, ...] = (),
        *,
        detach_head: bool = False,
        dropout: float = 0.0,
        layer_heads: LayerHeads | None = None,
        scope_V: Tensor | None = None,
    ):
        super().__init__()
        self.backbone = backbone
        self.inner_layers = inner_layers
        self.detach_head = detach_head or layer_heads is not None
        self.layer_heads = layer_heads
        self.probed_layers: tuple[int, ...] = ()
        self.task_names: tuple[str, ...] = ()  # whose cross-entropy is logged, each by itself
        self.register_buffer("scope_V", scope_V, persistent=False)
        inner = causal_lm(backbone)
        text_config = inner.config.get_text_config()
        self.n_layers, self.n_vocabulary = text_config.num_hidden_layers, text_config.vocab_size
        if inner_layers and not (inner_layers[0] >= 1 and inner_layers[-1] < self.n_layers):
            raise ValueError(f"layers {inner_layers} of a model with {self.n_layers}")
        self._softcap = getattr(text_config, "final_logit_softcapping", None)
        self._divide = getattr(text_config, "logits_scaling", None)  # Granite
        self._multiply = getattr(text_config, "logit_scale", None)  # Cohere
        if dropout:
            add_dropout(inner, dropout)

    def forward(
        self,
        batch: Batch | Responses,
        loss: Loss,
        rewards: Rewards | None = None,
        chunk: int | None = None,
        logged: bool = False,
    ) -> Terms:
        """The loss's Terms over all supervised positions; `chunk` positions reach the vocabulary at a time.

        0: all of them; None: as many as `CHUNK_LOGITS` allows. `logged`: with the statistics of layers too.
        """
        if isinstance(batch, Responses):
            hidden_PD = batch.hidden(self)
            terms = loss(batch.log_probs(self, chunk, hidden_PD), batch)
            return terms + Terms(stats={"entropy": batch.entropy(self, hidden_PD, chunk)} if logged else {})
        last_ND, inner_KND, others = self.hidden(batch, self.probed_layers if logged else ())
        batch, rewards = self.in_scope(batch, rewards)
        positions = max(len(batch.target_N), 1)  # none at all still gives terms, of zero, tied to the parameters
        size = (self.chunk_size(positions) if chunk is None else chunk) or positions
        chunked = size < positions
        total = Terms()
        for start in range(0, positions, size):
            part = slice(start, start + size)
            tokens, values = (each if each is None else each[part] for each in rewards or (None, None))
            task_N = batch.task_N[part] if self.task_names and batch.task_N is not None else None
            arguments = (loss, last_ND[part], inner_KND[:, part], batch.target_N[part], tokens, values, task_N)
            # A chunk's logits are recomputed in the backward pass, so that only one chunk's ever exist.
            terms = checkpoint(self._chunk, *arguments, use_reentrant=False) if chunked else self._chunk(*arguments)
            total = total + terms
        if logged:
            states = {**dict(zip(self.inner_layers, inner_KND, strict=True)), **others}
            total = total + layer_statistics(self, last_ND, states, batch.target_N, size)
        return total

    def chunk_size(self, positions: int) -> int:
        """Even chunks of a bounded number of logits; from the batch and the model alone, so that a run resumes alike."""
        width = self.n_vocabulary if self.scope_V is None else len(self.scope_V)
        most = max(1, CHUNK_LOGITS // ((1 + len(self.inner_layers)) * width))
        chunks = -(-positions // most)
        return -(-positions // chunks)

    def within(self, call: Callable[[], T]) -> T:
        """A call that uses parameters outside a loss (decoding); sharded parameters are there as in `forward`."""
        return call()

    def hidden(self, batch: Batch, more: Iterable[int] = ()) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
        """(last_ND, normed; inner_KND, not normed; states_ND of `more` layers) at the supervised positions only."""
        more = [layer for layer in more if layer not in self.inner_layers and layer < self.n_layers]
        # No mask: rows end with their padding, which nothing before it sees. Kernels for causal attention are the fast ones.
        output = decoder(causal_lm(self.backbone))(
            input_ids=batch.input_BS, use_cache=False,
            output_hidden_states=bool(self.inner_layers or more),
        )  # fmt: skip
        chosen = [output.last_hidden_state] + [output.hidden_states[layer] for layer in (*self.inner_layers, *more)]
        last_ND, *states = [states.flatten(0, 1).index_select(0, batch.position_N) for states in chosen]
        inner = states[: len(self.inner_layers)]
        inner_KND = torch.stack(inner) if inner else last_ND.new_zeros(0, *last_ND.shape)
        return last_ND, inner_KND, dict(zip(more, states[len(inner) :], strict=True))

    def phi(self, last_ND: Tensor, inner_KND: Tensor) -> tuple[Tensor, Tensor]:
        """(final_NV, inner_KNV) as float32: logits of the last layer and of the candidate layers (eq. 2)."""
        if not len(inner_KND):
            final_NV = self._head(last_ND)
            return final_NV, final_NV.new_zeros(0, *final_NV.shape)
        if self.detach_head:
            return self._head(last_ND), self._head(self._normed(inner_KND), detach=True)
        logits = self._head(torch.cat([last_ND[None], self._normed(inner_KND)]))  # one call of a costly head
        return logits[0], logits[1:]

    def layer_logits(self, layer: int, hidden_ND: Tensor) -> Tensor:
        """Logits of any layer below the last, by its own head where it has one."""
        own = None if self.layer_heads is None else self.layer_heads.of(layer)
        return self._head((own or final_norm(causal_lm(self.backbone)))(hidden_ND))

    def _normed(self, inner_KND: Tensor) -> Tensor:
        """Hidden states of the candidate layers as the head takes them."""
        if self.layer_heads is not None:
            return self.layer_heads(inner_KND)
        norm = final_norm(causal_lm(self.backbone))
        return functional_call(norm, _detached(norm), (inner_KND,)) if self.detach_head else norm(inner_KND)

    def _head(self, normed: Tensor, *, detach: bool = False) -> Tensor:
        """Logits of the tokens in scope."""
        head = causal_lm(self.backbone).get_output_embeddings()
        if self.scope_V is not None:
            weight, bias = head_rows(head, self.scope_V)
            if detach:
                weight, bias = weight.detach(), None if bias is None else bias.detach()
            return self._after_head(nn.functional.linear(normed, weight, bias))
        return self._after_head(functional_call(head, _detached(head), (normed,)) if detach else head(normed))

    def in_scope(self, batch: Batch, rewards: Rewards | None) -> tuple[Batch, Rewards | None]:
        """Targets and tokens as columns of the logits."""
        if self.scope_V is None:
            return batch, rewards
        if rewards is not None:
            column_NC = torch.searchsorted(self.scope_V, rewards.token_NC)
            rewards = rewards._replace(token_NC=torch.where(rewards.token_NC >= 0, column_NC, -1))
        return batch._replace(target_N=torch.searchsorted(self.scope_V, batch.target_N)), rewards

    def _chunk(
        self, loss: Loss, last_ND: Tensor, inner_KND: Tensor, target_N: Tensor, tokens: Any, values: Any, task_N: Any
    ) -> Terms:
        final_NV, inner_KNV = self.phi(last_ND, inner_KND)
        terms = loss(final_NV, inner_KNV, target_N, reward_tokens_NC=tokens, reward_values_NC=values)
        return terms if task_N is None else terms + task_statistics(self.task_names, final_NV, target_N, task_N)

    def _after_head(self, logits: Tensor) -> Tensor:
        logits = logits.float()
        if self._divide:
            logits = logits / self._divide
        if self._multiply:
            logits = logits * self._multiply
        return torch.tanh(logits / self._softcap) * self._softcap if self._softcap else logits

    @torch.no_grad()
    def check_phi(self) -> None:
        """Refuse an architecture whose own logits are not phi of its last hidden state, or that sees later tokens."""
        model = causal_lm(self.backbone)
        was_training = model.training
        model.eval()
        ids = torch.arange(4, device=model.get_input_embeddings().weight.device)[None]
        expected = model(input_ids=ids).logits.float()
        last = decoder(model)(input_ids=ids, use_cache=False).last_hidden_state
        if self.scope_V is not None:
            expected = expected.index_select(-1, self.scope_V)
        other = decoder(model)(input_ids=ids[:, [0, 1, 2, 0]], use_cache=False).last_hidden_state
        found = self.phi(last.flatten(0, 1), last.new_zeros(0))[0].view_as(expected)
        model.train(was_training)
        scale = expected.abs().max().clamp(min=1e-3)
        if (found - expected).abs().max() > 0.02 * scale:
            raise UserError(
                f"backbone {type(model).__name__}: its logits are not its head's product with the last hidden state; "
                "use a Llama, Qwen, Mistral, Gemma, Phi or similar model"
            )
        if (last - other)[:, :-1].abs().max() > 0.02 * last.abs().max():
            raise UserError(
                f"backbone {type(model).__name__}: its tokens see those behind them; a causal model is needed"
            )


def decoder(model: Any) -> Any:
    """The stack of blocks below the head."""
    return model.get_decoder()


def final_norm(model: Any) -> nn.Module:
    """The norm after the last block."""
    stack = decoder(model)
    names = [name for name in NORM_NAMES if isinstance(getattr(stack, name, None), nn.Module)]
    if not names:
        raise UserError(f"backbone {type(model).__name__}: no final norm found (looked for {', '.join(NORM_NAMES)})")
    return getattr(stack, names[0])


def add_dropout(model: Any, probability: float) -> None:
    """Dropout on the embeddings and on what attention and feed-forward add, while training; no weights change."""

    def drop(module: nn.Module, inputs: Any, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) else output
        first = nn.functional.dropout(first, probability, module.training)
        return (first, *output[1:]) if isinstance(output, tuple) else first

    blocks = list(getattr(decoder(model), "layers", []))
    if not blocks or not all(hasattr(block, "self_attn") and hasattr(block, "mlp") for block in blocks):
        raise UserError(
            f"--dropout: {type(model).__name__} has no blocks of attention and feed-forward that ilrec knows"
        )
    model.get_input_embeddings().register_forward_hook(drop)
    for block in blocks:
        block.self_attn.register_forward_hook(drop)
        block.mlp.register_forward_hook(drop)


def _detached(module: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach() for name, parameter in module.named_parameters()}
