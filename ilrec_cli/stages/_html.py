"""Pages as one HTML file: no network; figures are drawn with matplotlib and stand inside as SVG, or in files of their own."""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ilrec_cli import __version__
from ilrec_cli.console import Console

# Okabe and Ito's palette: told apart with any common form of colour blindness, on white and on black.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8C8C8C", "#B8A900")
GREY = "#7d8590"  # readable on white and on black; in a page it takes the page's colour of text


class Drawing(NamedTuple):
    """A figure with its name, a caption, and a description for those who cannot see it."""

    name: str
    caption: str
    description: str
    figure: Any
    title: str = ""

    @property
    def svg(self) -> str:
        return svg(self.figure, self.description)


def can_draw(console: Console) -> bool:
    """Whether matplotlib is there; says so where it is not."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        console.warn("the report has no figures: pip install 'ilrec[plots]'")
        return False
    return True


def page(template: str, **values: Any) -> str:
    """The text of a page from one of the templates beside this file; what is no HTML (Markdown, LaTeX) is not escaped."""
    from jinja2 import Environment, FileSystemLoader, select_autoescape

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), trim_blocks=True, lstrip_blocks=True,
        autoescape=select_autoescape(disabled_extensions=("md.jinja", "tex.jinja"), default=True),
    )  # fmt: skip
    return environment.get_template(template).render(version=__version__, **values)


def colours(names: Iterable[str]) -> dict[str, str]:
    """A colour for every name, in their order; where there are more names than colours, the later ones are paler."""
    return {name: _paler(COLOURS[place % len(COLOURS)], place // len(COLOURS)) for place, name in enumerate(names)}


def _paler(colour: str, times: int) -> str:
    """Closer to grey, once or twice; then no palette helps."""
    share = 0.4 * min(times, 2)
    parts = [(int(colour[at : at + 2], 16), int(GREY[at : at + 2], 16)) for at in (1, 3, 5)]
    return "#" + "".join(f"{round(own + share * (grey - own)):02X}" for own, grey in parts)


def shades(layers: int) -> dict[int, Any]:
    """A colour for each of so many layers, from dark (the first) to light (the last), seen on white and on black."""
    from matplotlib import colormaps

    return {
        layer: colormaps["viridis"](0.25 + 0.55 * (layer - 1) / max(1, layers - 1)) for layer in range(1, layers + 1)
    }


def grouped_bars(
    axis: Any, groups: Sequence[str], values: Mapping[str, Sequence[float | None]], colours: Mapping[str, str],
    ends: Mapping[str, Sequence[Sequence[float] | None]] | None = None,
) -> None:  # fmt: skip
    """A group of bars for every label, a bar for every name that has a value there, with a line between its `ends`."""
    width = 0.8 / len(values)
    for index, (name, heights) in enumerate(values.items()):
        shift = (index - (len(values) - 1) / 2) * width
        shown = [(place + shift, height) for place, height in enumerate(heights) if height is not None]
        places = [place for place, _ in shown]
        axis.bar(places, [height for _, height in shown], width * 0.92, color=colours[name], label=name)
        for place, each in enumerate((ends or {}).get(name, ())):
            if each is not None:
                axis.plot([place + shift] * 2, each, color=GREY, linewidth=1)
    axis.set_xticks(range(len(groups)), groups, fontsize=9)


def figure(*, rows: int, columns: int, height: float) -> tuple[Any, list[Any]]:
    """(figure, axes) in the pages' style, panels row by row."""
    from matplotlib.figure import Figure  # without pyplot: no global state, no display
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(9, height * rows + 0.5), layout=ConstrainedLayoutEngine(h_pad=0.1, w_pad=0.08))
    axes = [figure.add_subplot(rows, columns, number + 1) for number in range(rows * columns)]
    for axis in axes:
        axis.set_facecolor("none")
        axis.tick_params(colors=GREY, labelsize=8, which="both")
        axis.grid(axis="y", color=GREY, alpha=0.25, linewidth=0.6)
        axis.set_axisbelow(True)
        axis.title.set_color(GREY)
        axis.xaxis.label.set_color(GREY)
        for side, spine in axis.spines.items():
            spine.set_color(GREY)
            spine.set_visible(side in ("left", "bottom"))
    return figure, axes


def grid(panels: int, height: float) -> tuple[Any, list[Any]]:
    """Up to three panels a row; those that are left over are not seen."""
    drawn, axes = figure(rows=-(-panels // 3), columns=min(3, panels), height=height)
    for axis in axes[panels:]:
        axis.set_visible(False)
    return drawn, axes


def legend(axes: Sequence[Any]) -> tuple[list[Any], list[str]]:
    """Every label once, whichever panel has it."""
    found: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return list(found.values()), list(found)


def svg(figure: Any, description: str) -> str:
    """Inline SVG that scales with the page, with a text for those who cannot see it; ids that no other figure has."""
    from markupsafe import Markup, escape

    buffer = io.StringIO()
    with _style():
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :].replace(GREY, "currentColor")
    own = hashlib.sha256(description.encode()).hexdigest()[:6]
    drawing = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>f{own}-", drawing)
    drawing = drawing.replace("<svg ", f'<svg role="img" aria-label="{escape(description)}" ', 1)
    return Markup(drawing)


def save(figure: Any, path: Path) -> None:
    """A file for a paper or a slide, by its ending: black on white, fonts inside."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_color("black")
    with _style():
        metadata = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
                    "svg": {"Date": None, "Creator": None}}[path.suffix[1:]]  # fmt: skip
        figure.savefig(path, dpi=200, facecolor="white", metadata=metadata)


def _style() -> Any:
    import matplotlib

    return matplotlib.rc_context({"svg.hashsalt": "ilrec", "svg.fonttype": "none", "font.family": "sans-serif",
                                  "pdf.fonttype": 42})  # fmt: skip
