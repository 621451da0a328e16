"""A report's tables: results, differences, ablations, slices, lists, costs, identifiers, and what was evaluated."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ilrec_cli import config as configs
from ilrec_cli import plugins
from ilrec_cli.metrics import REPORTED
from ilrec_cli.stages import _inputs, _protocol, _registry, _report_rows
from ilrec_cli.stages._report_rows import Row
from ilrec_cli.stages._table import Column, Table, Value

PAIRED = ("hit@5", "hit@10", "ndcg@5", "ndcg@10")
SHORT = ("hit@10", "ndcg@10")
NAMED = ("valid", "substring_hit@1", "substring_valid")  # of names that a model writes, where any did
AMONG_FEW = ("hit@1", "valid", *SHORT)  # of each event's own candidates
LISTS = ("coverage", "gini", "novelty", "average_popularity", "popularity_share")
SLICES = {"target_popularity": "target's training interactions", "history_length": "items before the target",
          "target": "target", "identifier": "target's identifier", "target_in_training": "candidate target in training"}  # fmt: skip
COSTS = ("seconds", "epochs", "steps")  # first; whatever else cost.json has comes after
Compare = Callable[[Row, Sequence[Row]], list[dict[str, Any]]]


def reported(rows: Sequence[Row]) -> tuple[str, ...]:
    """The metrics of a protocol's table."""
    return (*REPORTED, *(name for name in NAMED if any(name in row.metrics for row in rows)))


def results(name: str, title: str, rows: Sequence[Row], metrics: Sequence[str] = ()) -> Table:
    """A row per model, a ranked column per metric, every value with its interval."""
    metrics = metrics or reported(rows)
    columns = [Column("run"), Column("list found by"), *(Column(metric, ranked=True) for metric in metrics)]
    return Table(name, title, columns, [[row.name, row.search, *values(row.result, metrics)] for row in rows])


def values(found: Mapping[str, Any], metrics: Sequence[str]) -> list[Value | None]:
    """Metrics with their intervals; None for one that is not there: a search for few items has none of long lists."""
    intervals = found.get("intervals", {})
    return [
        Value(found["metrics"][metric], *intervals.get(metric, ())) if metric in found["metrics"] else None
        for metric in metrics
    ]


def differences(name: str, title: str, base: Row, others: Sequence[Row], compare: Compare) -> Table:
    """What each of the others changes, and by how much its metrics differ from the base's, paired by user."""
    columns = [Column("run"), Column("what differs"), *(Column(f"Δ {metric}") for metric in PAIRED), Column("p, ndcg@10"),
               Column("p, Holm")]  # fmt: skip
    found = compare(base, others)
    rows = []
    for place, row in enumerate(others):
        mine = found[place * len(PAIRED) : (place + 1) * len(PAIRED)]
        gaps = [Value(each["difference"], *each["interval"])._replace(signed=True) for each in mine]
        rows.append([row.name, changes(base, row), *gaps, mine[-1]["p"], mine[-1]["p_holm"]])
    note = f"Differences from {base.name}, paired by user; 95 % intervals by bootstrap, p by random signs, Holm's over the rows"
    return Table(name, title, columns, rows, note)


def comparable(base: Row, rows: Sequence[Row]) -> list[Row]:
    """Those whose numbers mean the same as the base's, by protocol."""
    rules = base.result["protocol"]
    others = [row for row in rows if row is not base and is_paired(row)]
    return [row for row in others if not _protocol.differences(rules, row.result["protocol"])]


def is_paired(row: Row) -> bool:
    """Whether it has what is compared: a list for every event, as long as the metrics ask for."""
    return row.is_ranked and set(PAIRED) <= row.metrics.keys()


def base_of(rows: Sequence[Row], wanted: str | None) -> Row | None:
    """The row that others are compared with: the one named, else SFT, else the first language model, else the best."""
    if wanted is not None:
        return next((row for row in rows if row.name == wanted and is_paired(row)), None)
    ranked = [row for row in rows if is_paired(row)]
    models = [row for row in ranked if row.is_lm] or ranked[-1:]
    return next((row for row in models if row.kind == "sft"), models[0] if models else None)


def ablations(rows: Sequence[Row]) -> list[tuple[Row, list[Row]]]:
    """(full method, its variants) of every method with several runs; the full one has the fewest settings changed."""
    rows = [row for row in rows if row.is_lm and is_paired(row)]
    counts = Counter(row.kind for row in rows)
    found = []
    for method in (method for method, count in counts.items() if count > 1):
        runs = sorted(
            (row for row in rows if row.kind == method),
            key=lambda row: (len(_chosen(row)), row.seed, row.name),
        )
        variants = comparable(runs[0], runs[1:])
        if variants:
            found.append((runs[0], variants))
    return found


def changes(base: Row, row: Row) -> str:
    """The settings and inputs in which a run differs from the base; of another method what is not its default."""
    if row.manifest["kind"] != base.manifest["kind"]:
        return row.kind
    one, other = ({**each.manifest["config"], "seed": each.seed} for each in (base, row))
    made_by = [row.kind] if row.kind != base.kind else []
    other.pop(_inputs.MADE_BY[row.manifest["kind"]])
    options = other.pop("options", {})
    before = one.pop("options", {})
    changed = {key: value for key, value in other.items() if one.get(key) != value}
    changed |= (
        _chosen(row)
        if row.kind != base.kind
        else {key: each for key, each in options.items() if before.get(key) != each}
    )
    parents = row.manifest["parents"]
    inputs = [
        f"other {role}" for role, digest in parents.items() if base.manifest["parents"].get(role, digest) != digest
    ]
    return ", ".join([*made_by, *(f"{key}={value}" for key, value in changed.items()), *inputs]) or "nothing"


def _chosen(row: Row) -> dict[str, Any]:
    """Options that are not the method's defaults."""
    plugin = plugins.load("methods" if row.is_lm else "cf", row.kind)
    defaults = {field.name: field.default for field in configs.fields(plugin.Config)}
    return {key: value for key, value in row.manifest["config"]["options"].items() if value != defaults.get(key)}


def slices(name: str, title: str, rows: Sequence[Row]) -> list[Table]:
    """A table per kind of slice: a row per part and model."""
    tables = []
    for kind, heading in SLICES.items():
        found = [(part, each, row) for row in rows for part, each in row.slices.get(kind, {}).items()]
        parts = list(dict.fromkeys(part for part, _, _ in found))
        if len(parts) < 2:
            continue
        metrics = AMONG_FEW if kind == "target_in_training" else SHORT
        shown = [name for name in metrics if any(name in each["metrics"] for _, each, _ in found)]
        body = [[part, row.label, each["events"], *values(each, shown)]
                for wanted in parts for part, each, row in found if part == wanted]  # fmt: skip
        columns = [Column(heading), Column("run"), Column("events"), *map(Column, shown)]
        tables.append(Table(f"{name}-{kind.replace('_', '-')}", f"{title}, by {heading}", columns, body, open=False))
    return tables


def lists(name: str, rows: Sequence[Row], k: int = 10) -> Table:
    """What the lists look like as a whole."""
    columns = [Column("run"), *(Column(f"{each.replace('_', ' ')}@{k}") for each in LISTS)]
    body = [[row.label, *(row.result.get("lists", {}).get(f"{each}@{k}") for each in LISTS)] for row in rows]
    note = "Coverage and Gini of the catalogue, novelty in bits, popularity in training interactions, share of popular items"
    return Table(name, "The lists as a whole", columns, body, note)


def costs(rows: Sequence[Row]) -> Table | None:
    """What trainings took; None where nothing is known."""
    found = {row.name: (row.kind, _report_rows.cost(row)) for row in rows}
    known = {label: (kind, each) for label, (kind, each) in found.items() if each}
    keys = [*COSTS, *sorted({key for _, each in known.values() for key in each} - set(COSTS))]
    keys = [key for key in keys if any(isinstance(each.get(key), int | float) for _, each in known.values())]
    if not known:
        return None
    body = [[label, kind, *(_amount(each.get(key)) for key in keys)] for label, (kind, each) in known.items()]
    return Table(
        "cost",
        "What training took",
        [Column("run"), Column("made by"), *(Column(key.replace("_", " ")) for key in keys)],
        body,
    )


def _amount(value: Any) -> int | float | None:
    """Whole where nobody needs the decimals."""
    if not isinstance(value, int | float):
        return None
    return round(value) if value >= 10 or float(value).is_integer() else value


def made_of(rows: Sequence[Row]) -> Table:
    """Every model with what it is a version of: enough to find or make it again."""
    body = []
    for row in rows:
        made = _registry.provenance(row.train)
        seconds = str(made.get("time", "-"))[:16].replace("T", " ")
        body.append([row.name, row.kind, str(row.seed), row.manifest["digest"][:8], made.get("packages", {}).get("ilrec"),
                     (made.get("commit") or "-")[:8], made.get("source", "-")[:8], seconds])  # fmt: skip
    titles = ("run", "made by", "seed", "version", "ilrec", "commit", "code", "made")
    return Table(
        "runs", "Every model's version, and the code that made it", [Column(each) for each in titles], body, open=False
    )
