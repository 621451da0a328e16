"""What `ilrec` can run: every command with its settings, the stage behind it, its place in the help, and an example."""

from __future__ import annotations

from ilrec_cli import settings

# command -> (settings, module of the stage, panel of the overview, an example)
COMMANDS: dict[str, tuple[type, str, str, str]] = {
    "preprocess": (settings.Preprocess, "preprocess", "Pipeline", "ilrec preprocess --dataset Instruments --raw-dir data/Instruments"),
    "build-ids": (settings.BuildIds, "build_ids", "Pipeline", "ilrec build-ids --dataset Instruments --encoder tfidf"),
    "train-cf": (settings.TrainCf, "train_cf", "Pipeline", "ilrec train-cf --dataset Instruments --model sasrec"),
    "train": (settings.Train, "train", "Pipeline", "ilrec train --dataset Instruments --method ilrec -o alpha=0.8"),
    "plan": (settings.Plan, "plan", "Pipeline", "ilrec plan --dataset Instruments --preset paper-8b --devices 8 --device-memory 40 --shard"),
    "evaluate": (settings.Evaluate, "evaluate", "Pipeline", "ilrec evaluate --dataset Instruments --run ilrec"),
    "compare": (settings.Compare, "compare", "Results", "ilrec compare --dataset Instruments sft ilrec"),
    "recommend": (settings.Recommend, "recommend", "Results", "ilrec recommend --dataset Instruments --user A2XSBHFY1WXVC5"),
    "serve": (settings.Serve, "serve", "Results", "ilrec serve --dataset Instruments --run ilrec --port 8000"),
    "report": (settings.Report, "report", "Results", "ilrec report --dataset Instruments"),
    "reproduce": (settings.Reproduce, "reproduce", "Results", "ilrec reproduce table3 --scale tiny"),
    "runs ls": (settings.ListRuns, "runs_ls", "Results", "ilrec runs ls"),
    "runs show": (settings.ShowRun, "runs_show", "Results", "ilrec runs show --dataset Instruments ilrec"),
    "runs diff": (settings.DiffRuns, "runs_diff", "Results", "ilrec runs diff --dataset Instruments sft ilrec"),
    "runs rm": (settings.RemoveRuns, "runs_rm", "Results", "ilrec runs rm --dataset Instruments sft --yes"),
    "export": (settings.Export, "export", "Results", "ilrec export --dataset Instruments --run ilrec --merge --output model"),
    "data audit": (settings.AuditData, "data_audit", "Data", "ilrec data audit --dataset Instruments"),
    "data convert": (settings.ConvertData, "data_convert", "Data", "ilrec data convert --dataset Instruments --to recbole"),
    "data show": (settings.ShowData, "data_show", "Data", "ilrec data show --dataset Instruments -n 3"),
    "tune cf": (settings.TuneCf, "tune_cf", "Pipeline", "ilrec tune cf --dataset Instruments --model gru4rec -o dropout_prob=0.3,0.5 -o learning_rate=1e-3,5e-4"),
    "sweep": (settings.Sweep, "sweep", "Pipeline", "ilrec sweep --dataset Instruments -o alpha=0.5,0.8,1.0 -o beta=0.05,0.1"),
    "ids report": (settings.ReportIds, "ids_report", "Data", "ilrec ids report --dataset Instruments --ids rqkmeans,published"),
    "ids extend": (settings.ExtendIds, "ids_extend", "Data", "ilrec ids extend --dataset Instruments --ids text --items new.csv"),
    "ids export": (settings.ExportIds, "ids_export", "Data", "ilrec ids export --dataset Instruments --ids text"),
    "demo": (settings.Demo, "demo", "Help", "ilrec demo"),
    "doctor": (settings.Doctor, "doctor", "Help", "ilrec doctor"),
}  # fmt: skip
PANELS = ("Data", "Filters, in this order", "Splits", "Reading", "Item text", "Item vectors", "Model",
          "Free text (--decode free)", "Optimisation", "",
          "Limits", "Running")  # fmt: skip

# Stages that run other commands: they are given `cli.invoke`.
CALLERS = ("demo", "report", "reproduce", "runs diff", "sweep")

GROUPS = {
    "runs": "What was trained: list it, look at one, compare two, remove some.",
    "data": "Look at preprocessed data, judge it, write it for other tools.",
    "tune": "Search settings on validation data.",
    "ids": "List ID schemes, or the options of one (ilrec ids NAME); judge identifiers, extend and export them.",
}
