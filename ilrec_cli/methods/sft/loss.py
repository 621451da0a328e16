"""Cross-entropy, which other methods start with too."""

from ilrec_cli.methods._sft import make_loss, sft_terms

__all__ = ["make_loss", "sft_terms"]
