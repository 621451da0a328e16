"""The loss over pairs of a target and what the model recommended instead."""

from __future__ import annotations

from ilrec_cli.methods import _preference
from ilrec_cli.methods.sprec import Config


def make_loss(config: Config) -> object:
    """The loss of this configuration."""
    return _preference.pair_loss("dpo", lambda margin_BJ, extra: _preference.dpo(margin_BJ, config.beta))
