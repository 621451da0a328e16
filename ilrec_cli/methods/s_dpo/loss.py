"""The loss over a target and all its negatives."""

from __future__ import annotations

from ilrec_cli.methods import _preference
from ilrec_cli.methods.s_dpo import Config


def make_loss(config: Config) -> object:
    """The loss of this configuration."""
    return _preference.pair_loss("s_dpo", lambda margin_BJ, extra: _preference.softmax_dpo(margin_BJ, config.beta))
