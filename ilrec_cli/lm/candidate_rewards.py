"""Collaborative rewards among a row's candidates: eq. 10 over a trie of them alone, R renormalised over them.

That trie is never built: below the prefix of a target lie the candidates whose paths begin with it, so a row's paths
are compared with its target's, all rows at once.

Shapes: M targets, C candidates, D path tokens, N supervised tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ilrec_cli.lm.model import Rewards


def candidate_rewards(score_MC: Tensor | None, path_MCD: Tensor, target_N: Tensor, event_N: Tensor) -> Rewards:
    """r_v of every token v that continues one of the row's candidates, before each token of the target's path.

    `score_MC`: the collaborative model's scores of the candidates; None: which tokens continue one, and no rewards.
    `path_MCD`: their token paths, end token included, padded with -1; the target's is one of them. `event_N` says which
    target each supervised token belongs to, in ascending order, a target's tokens one after another from its first.
    """
    step_N = torch.arange(len(event_N), device=event_N.device) - torch.searchsorted(event_N, event_N)
    target_MD = path_MCD.new_full((len(path_MCD), path_MCD.shape[2]), -1)
    target_MD[event_N, step_N] = target_N
    agrees_MCD = (path_MCD == target_MD[:, None]).long().cumprod(2)
    before_MCD = torch.nn.functional.pad(agrees_MCD, (1, -1), value=1).bool()  # agrees on all tokens before this one
    below_NC, next_NC = before_MCD[event_N, :, step_N], path_MCD[event_N, :, step_N]
    same_NCC = (next_NC[:, :, None] == next_NC[:, None]) & below_NC[:, :, None] & below_NC[:, None]
    repeated_NC = same_NCC.tril(-1).any(2)
    token_NC = next_NC.masked_fill(~below_NC | repeated_NC, -1)
    if score_MC is None:
        return Rewards(token_NC, None)
    # The softmax over the candidates below the prefix is R over its mass there, without ever dividing by a mass near zero.
    share_NC = score_MC.double()[event_N].masked_fill(~below_NC, -torch.inf).softmax(1)
    value_NC = (same_NCC * share_NC[:, None]).sum(2).masked_fill(token_NC < 0, 0.0)
    return Rewards(token_NC, value_NC.float())
