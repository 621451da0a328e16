"""The settings of every command: one frozen dataclass each. A field's text is its help; `ilrec COMMAND --help` shows it."""

from ilrec_cli.settings.data import AuditData, BuildIds, ConvertData, Preprocess, ShowData
from ilrec_cli.settings.models import FitCf, Train, TrainCf, TuneCf
from ilrec_cli.settings.results import Demo, Doctor, Evaluate, Recommend, Report

__all__ = [
    "AuditData", "BuildIds", "ConvertData", "Demo", "Doctor", "Evaluate", "FitCf", "Preprocess", "Recommend", "Report", "ShowData",
    "Train", "TrainCf", "TuneCf",
]  # fmt: skip
