"""Which layers are candidates (the set S of eq. 3). Layer l is the output of the l-th of L blocks."""

from __future__ import annotations

import random

from ilrec_cli.errors import UserError


def resolve_layers(spec: str, n_layers: int, seed: int = 0) -> tuple[int, ...]:
    """Layer numbers between 1 and L - 1, ascending, for a setting of `layers`.

    >>> resolve_layers("auto", 32), resolve_layers("-1,-3", 32), resolve_layers("consecutive:2", 4)
    ((29, 30, 31), (29, 31), (2, 3))
    """
    if n_layers < 2:
        raise UserError("the model has 1 layer; ILRec needs at least 2: the last one, and one below it")
    offsets = _offsets(spec.replace(" ", ""), n_layers, seed)
    if not offsets or len(set(offsets)) < len(offsets):
        raise UserError(f"layers = {spec}: expected distinct layers, got offsets {offsets}")
    _refuse_outside(spec, offsets, n_layers)
    return tuple(sorted(n_layers + offset for offset in offsets))


def _offsets(spec: str, n_layers: int, seed: int) -> list[int]:
    if spec == "auto":
        # k = 3 on 32 layers and on 28, 2 on 16 (appendix A.5 and Figure 5); smaller models have fewer layers to spare.
        return _consecutive(3 if n_layers >= 24 else 2 if n_layers >= 12 else 1)
    kind, *numbers = spec.split(":")
    try:
        if kind == "consecutive" and len(numbers) == 1:
            _refuse_outside(spec, [-int(numbers[0])], n_layers)  # before a list of a billion is made
            return _consecutive(int(numbers[0]))
        if kind == "random" and len(numbers) == 3:
            count, *bounds = map(int, numbers)
            _refuse_outside(spec, bounds, n_layers)  # whatever is drawn: no seed trains what another cannot
            return random.Random(seed).sample(range(min(bounds), max(bounds) + 1), count)
        return [int(part) for part in spec.split(",")]
    except UserError:
        raise
    except ValueError as error:
        raise UserError(
            f"layers = {spec}: expected auto, consecutive:K, offsets like -1,-2, or random:K:-1:-8"
        ) from error


def _refuse_outside(spec: str, offsets: list[int], n_layers: int) -> None:
    if any(not -n_layers < offset < 0 for offset in offsets):
        raise UserError(
            f"layers = {spec}: the model has {n_layers} layers, so offsets lie between -1 and -{n_layers - 1}; "
            f"got {', '.join(map(str, offsets))}"
        )


def _consecutive(k: int) -> list[int]:
    return [-offset for offset in range(1, k + 1)]
