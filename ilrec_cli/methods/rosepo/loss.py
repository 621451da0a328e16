"""DPO with a smoothing of each pair's own."""

from __future__ import annotations

from ilrec_cli.methods import _preference
from ilrec_cli.methods.rosepo import Config


def make_loss(config: Config) -> object:
    """The loss of this configuration."""
    return _preference.pair_loss(
        "rosepo",
        lambda margin_BJ, extra: _preference.dpo(
            margin_BJ, config.beta, extra.get(_preference.SMOOTHING, config.epsilon)
        ),
    )
