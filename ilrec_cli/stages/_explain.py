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
from ilrec_cli.histories import Sequences
from ilrec_cli.lm import backbone
from ilrec_cli.lm.examples import Examples
from ilrec_cli.lm.model import SupervisedLM
from ilrec_cli.lm.rank import Ranker

SHOWN = 6  # tokens a step: as many by the last layer's probability, and as many by their penalty


class Trained(NamedTuple):
    """How the run saw its layers: the candidate layers, and which tokens were negatives, if it had any."""

    layers: tuple[int, ...]
    options: Any
    loss: Any  # the module with the equations; None where the method has no negatives


class Logits(NamedTuple):
    """Of every step: the last layer's and the candidate layers' logits, the path's token, the tokens that go on."""

    final_NV: Tensor
    inner_KNV: Tensor
    target_N: Tensor
    child_NC: Tensor


def explain(ranker: Ranker, run: Artifact, history_T: np.ndarray, item: int) -> dict[str, Any]:
    """{layers, alpha, steps: [{step, chosen, negatives, tokens: [...]}]} of an item after a history.

    A token has its probability by the last layer (`final`) and by each candidate layer (`layers`), their ensemble
    (`ensemble`, eq. 3), whether it continues an item, and, for a method with negatives, whether it is one (V_N, eq. 4
    and 5, with the item's token in the place of the target) and its weight in the penalty (eq. 6).
    """
    trained = _trained(ranker, run)
    logits = _logits(ranker, history_T, item, trained.layers)
    tokenizer = backbone.saved_tokenizer(run.path / "model")
    steps = _steps(logits, trained, tokenizer)
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
def _logits(ranker: Ranker, history_T: np.ndarray, item: int, layers: tuple[int, ...]) -> Logits:
    """One pass over the prompt and the item's path, as in training."""
    sequence = Sequences(np.append(history_T, item), np.array([0, len(history_T) + 1]))
    user, end = np.array([0]), np.array([len(history_T)])
    examples = Examples.per_target(sequence, user, end, len(history_T), ranker.catalogue, ranker.layout)
    batch = examples.batch(np.array([0])).to(ranker.device)
    model = SupervisedLM(ranker.model, layers).eval()
    final_NV, inner_KNV = model.phi(*model.hidden(batch))
    return Logits(final_NV, inner_KNV, batch.target_N, ranker.trie.children(batch.node_N)[0])


def _steps(logits: Logits, trained: Trained, tokenizer: Any) -> list[dict[str, Any]]:
    final_NV, inner_KNV, target_N, child_NC = logits
    prob_NV, prob_KNV = final_NV.softmax(-1), inner_KNV.softmax(-1)
    negative_NV = torch.zeros_like(final_NV, dtype=torch.bool)
    ensemble_NV, weight_NV = torch.zeros_like(final_NV), torch.zeros_like(final_NV)
    if len(inner_KNV):
        mean_NV = inner_KNV.mean(0)
        if trained.loss is not None:
            taken_final = trained.options.negatives_from == "final"
            mean_NV = final_NV if taken_final else trained.loss.ensemble(inner_KNV, trained.options)
            negative_NV = trained.loss.negatives(mean_NV, target_N, trained.options, child_NC)
            weight_NV = trained.loss.penalty_weights(mean_NV, negative_NV, trained.options)
        ensemble_NV = mean_NV.softmax(-1)
    steps = []
    for n, target in enumerate(target_N.tolist()):
        children = child_NC[n][child_NC[n] >= 0]
        rows = [
            {
                "token": tokenizer.convert_ids_to_tokens(token),
                "chosen": token == target,
                "final": float(prob_NV[n, token]),
                "layers": {str(layer): float(prob_KNV[k, n, token]) for k, layer in enumerate(trained.layers)},
                "ensemble": float(ensemble_NV[n, token]) if trained.layers else None,
                "continues": bool((children == token).any()),
                "negative": bool(negative_NV[n, token]) if trained.loss is not None else None,
                "penalty": float(weight_NV[n, token]) if trained.loss is not None else None,
            }
            for token in _shown(prob_NV[n], weight_NV[n], negative_NV[n], children, target)
        ]
        negatives = int(negative_NV[n].sum()) if trained.loss is not None else None
        chosen = tokenizer.convert_ids_to_tokens(target)
        steps.append({"step": n + 1, "chosen": chosen, "candidates": len(children), "negatives": negatives, "tokens": rows})  # fmt: skip
    return steps


def _shown(prob_V: Tensor, weight_V: Tensor, negative_V: Tensor, children: Tensor, target: int) -> list[int]:
    """The likeliest continuations, the most penalised negatives, and the path's own token, by probability."""
    likely = children[prob_V[children].argsort(descending=True, stable=True)[:SHOWN]].tolist()
    negative = negative_V.nonzero().flatten()
    penalised = negative[weight_V[negative].argsort(descending=True, stable=True)[:SHOWN]].tolist()
    return sorted({*likely, *penalised, target}, key=lambda token: (-float(prob_V[token]), token))
