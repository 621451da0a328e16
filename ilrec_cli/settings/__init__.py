"""The settings of every command: one frozen dataclass each. A field's text is its help; `ilrec COMMAND --help` shows it."""

from ilrec_cli.settings.cf import FitCf, TrainCf, TuneCf
from ilrec_cli.settings.data import AuditData, BuildIds, ConvertData, Encoding, Preprocess, ShowData
from ilrec_cli.settings.evaluate import Compare, Evaluate
from ilrec_cli.settings.ids import ExportIds, ExtendIds, ReportIds
from ilrec_cli.settings.plan import Plan
from ilrec_cli.settings.recommend import OpenModel, Recommend, Serve
from ilrec_cli.settings.reproduce import Reproduce
from ilrec_cli.settings.results import Demo, Doctor, Export, Report
from ilrec_cli.settings.runs import DiffRuns, ListRuns, RemoveRuns, ShowRun
from ilrec_cli.settings.sweep import Sweep
from ilrec_cli.settings.train import Train

__all__ = [
    "AuditData", "BuildIds", "Compare", "ConvertData", "Demo", "DiffRuns", "Doctor", "Encoding", "Evaluate", "Export", "ExportIds", "ExtendIds", "FitCf",
    "ListRuns", "OpenModel", "Plan", "Preprocess", "Recommend", "RemoveRuns", "Report", "ReportIds", "Reproduce", "Serve", "ShowData", "ShowRun", "Sweep", "Train", "TrainCf", "TuneCf",
]  # fmt: skip
