"""How a language model came to an item: at every step of its path, the tokens considered, layer by layer.

Shapes: N steps of the path, V vocabulary, K intermediate layers, C children of a trie node, T history items.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ilrec_cli import config as configs
from ilrec_cli import plugins
from ilrec_cli.artifacts import Artifact
from ilrec_cli.errors import UserError
from ilrec_cli.histories import Sequences
from ilrec_cli.lm import backbone
from ilrec_cli.lm.examples import Examples
from ilrec_cli.lm.heads import open_heads
from ilrec_cli.lm.model import Rewards, SupervisedLM, final_norm
from ilrec_cli.lm.rank import Ranker

SHOWN = 6  # tokens a step: as many by the last layer's probability, and as many by their penalty


class Trained(NamedTuple):
    """How the run saw its layers: the candidate layers, and which tokens were negatives, if it had any."""

    layers: tuple[int, ...]
    options: Any
    loss: Any  # the module with the equations; None where the method has no negatives


class Logits(NamedTuple):
    """Of every step: the last layer's and the candidate layers' logits, the path's token, the tokens that go on.

    Tokens are columns of the logits; `token_V` says which token a column is.
    """

    final_NV: Tensor
    inner_KNV: Tensor
    target_N: Tensor
    child_NC: Tensor
    token_V: Tensor


def explain(ranker: Ranker, run: Artifact, history_T: np.ndarray, item: int) -> dict[str, Any]:
    """{layers, alpha, steps: [{step, chosen, negatives, tokens: [...]}]} of an item after a history.

    A token has its probability by the last layer (`final`) and by each candidate layer (`layers`), their ensemble
    (`ensemble`, eq. 3), whether it continues an item, and, for a method with negatives, whether it is one (V_N, eq. 4
    and 5, with the item's token in the place of the target) and its weight in the penalty (eq. 6).
    """
    if ranker.layout.thought:
        raise UserError(
            f"run '{run.name}' thinks before it answers; what its layers say is explained for runs that do not"
        )
    trained = _trained(ranker, run)
    logits = _logits(ranker, run, history_T, item, trained.layers)
    names = backbone.saved_tokenizer(run.path / "model").convert_ids_to_tokens(logits.token_V.tolist())
    steps = _steps(logits, trained, names)
    alpha = trained.options.alpha if trained.loss is not None else None
    return {"layers": list(trained.layers), "alpha": alpha, "steps": steps}


def _trained(ranker: Ranker, run: Artifact) -> Trained:
    """For a method without candidate layers: those that ILRec would take, and no negatives."""
    method = plugins.load("methods", run.config["method"])
    has_layers = "inner_layers" in method.NEEDS
    shown = method if has_layers else plugins.load("methods", "ilrec")
    options = configs.build(
        shown.Config, run.config["options"] if has_layers else {}, f"method '{run.config['method']}'"
    )
    depth = backbone.causal_lm(ranker.model).config.get_text_config().num_hidden_layers
    layers: tuple[int, ...] = ()
    if depth > 1:
        layers = plugins.part(shown, "layers").resolve_layers(options.layers, depth, run.manifest["seed"])
    return Trained(layers, options, plugins.part(method, "loss") if has_layers and layers else None)


@torch.inference_mode()
def _logits(ranker: Ranker, run: Artifact, history_T: np.ndarray, item: int, layers: tuple[int, ...]) -> Logits:
    """One pass over the prompt and the item's path, as in training: with its heads of layers, in its scope."""
    sequence = Sequences(np.append(history_T, item), np.array([0, len(history_T) + 1]))
    user, end = np.array([0]), np.array([len(history_T)])
    examples = Examples.per_target(sequence, user, end, len(history_T), ranker.catalogue, ranker.layout)
    batch = examples.batch(np.array([0])).to(ranker.device)
    heads = open_heads(run.path, final_norm(backbone.causal_lm(ranker.model)))
    scope_V = ranker.trie.tokens() if run.config.get("vocab_scope") == "ids" else None
    model = SupervisedLM(ranker.model, layers, layer_heads=heads, scope_V=scope_V).to(ranker.device).eval()
    last_ND, inner_KND, _ = model.hidden(batch)
    final_NV, inner_KNV = model.phi(last_ND, inner_KND)
    batch, rewards = model.in_scope(batch, Rewards(ranker.trie.children(batch.node_N)[0], None))
    assert rewards is not None
    token_V = torch.arange(final_NV.shape[1], device=ranker.device) if scope_V is None else scope_V
    return Logits(final_NV, inner_KNV, batch.target_N, rewards.token_NC, token_V)


class Views(NamedTuple):
    """What every token looks like at every step; `negative` and `weight` are empty where the method has none."""

    final_NV: Tensor
    layer_KNV: Tensor
    ensemble_NV: Tensor
    negative_NV: Tensor
    weight_NV: Tensor


def _views(logits: Logits, trained: Trained) -> Views:
    """Probabilities, V_N and w_v by the run's own equations."""
    final_NV, inner_KNV, target_N, child_NC, _ = logits
    negative_NV, weight_NV = torch.zeros_like(final_NV, dtype=torch.bool), torch.zeros_like(final_NV)
    ensemble_NV = inner_KNV.mean(0) if len(inner_KNV) else final_NV
    if trained.loss is not None:
        whole = trained.options.negatives_from == "final"
        ensemble_NV = final_NV if whole else trained.loss.ensemble(inner_KNV, trained.options)
        negative_NV = trained.loss.negatives(ensemble_NV, target_N, trained.options, child_NC)
        weight_NV = trained.loss.penalty_weights(ensemble_NV, negative_NV, trained.options)
    final, layers, ensemble = (part.softmax(-1) for part in (final_NV, inner_KNV, ensemble_NV))
    return Views(final, layers, ensemble, negative_NV, weight_NV)


def _steps(logits: Logits, trained: Trained, names: list[str]) -> list[dict[str, Any]]:
    views, steps = _views(logits, trained), []
    for n, target in enumerate(logits.target_N.tolist()):
        children = logits.child_NC[n][logits.child_NC[n] >= 0]
        shown = _shown(views.final_NV[n], views.weight_NV[n], views.negative_NV[n], children, target)
        rows = [
            {
                "token": names[token],
                "chosen": token == target,
                "continues": bool((children == token).any()),
                **_looks(views, trained, n, token),
            }
            for token in shown
        ]
        steps.append({
            "step": n + 1, "chosen": names[target], "candidates": len(children),
            "negatives": int(views.negative_NV[n].sum()) if trained.loss is not None else None, "tokens": rows,
        })  # fmt: skip
    return steps


def _looks(views: Views, trained: Trained, n: int, token: int) -> dict[str, Any]:
    """A token's probabilities at step n, and how it is penalised."""
    known = trained.loss is not None
    return {
        "final": float(views.final_NV[n, token]),
        "layers": {str(layer): float(views.layer_KNV[k, n, token]) for k, layer in enumerate(trained.layers)},
        "ensemble": float(views.ensemble_NV[n, token]) if trained.layers else None,
        "negative": bool(views.negative_NV[n, token]) if known else None,
        "penalty": float(views.weight_NV[n, token]) if known else None,
    }


def _shown(prob_V: Tensor, weight_V: Tensor, negative_V: Tensor, children: Tensor, target: int) -> list[int]:
    """The likeliest continuations, the most penalised negatives, and the path's own token, by probability."""
    likely = children[prob_V[children].argsort(descending=True, stable=True)[:SHOWN]].tolist()
    negative = negative_V.nonzero().flatten()
    penalised = negative[weight_V[negative].argsort(descending=True, stable=True)[:SHOWN]].tolist()
    return sorted({*likely, *penalised, target}, key=lambda token: (-float(prob_V[token]), token))
