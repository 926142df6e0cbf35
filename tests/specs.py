"""Read what a figure's chart holds."""

from collections.abc import Iterator
from typing import Any

Rows = list[dict[str, Any]]


def panels(figure) -> list[dict[str, Any]]:
    """Return the panels of a drawing, or of a figure as it is defined."""
    return [*figure.panels] if hasattr(figure, "panels") else figure.spec["vconcat"][-1]["concat"]


def layers(view: dict[str, Any], rows: Rows = ()) -> Iterator[tuple[dict[str, Any], Rows]]:
    """Yield the innermost layers of a view, each with its rows of data."""
    rows = view.get("data", {}).get("values", rows)
    if "layer" in view:
        for layer in view["layer"]:
            yield from layers(layer, rows)
    else:
        yield view, rows


def kind(layer: dict[str, Any]) -> str:
    mark = layer["mark"]
    return mark if isinstance(mark, str) else mark["type"]


def marks(figure) -> list[tuple[str, Rows]]:
    """Return the kind of mark and the rows of each layer of all panels, without those that only answer to a reader."""
    return [(kind(layer), rows) for panel in panels(figure) for layer, rows in layers(panel) if "params" not in layer]


def rows_of(panel: dict[str, Any], mark: str) -> Rows:
    """Return the rows of the first layer of a panel with a kind of mark."""
    return next(rows for layer, rows in layers(panel) if kind(layer) == mark)


def encodings(panel: dict[str, Any], channel: str) -> list[dict[str, Any]]:
    """Return the encodings of a channel that have a scale, in all layers of a panel."""
    found = [layer["encoding"][channel] for layer, _ in layers(panel) if channel in layer.get("encoding", {})]
    return [of for of in found if "scale" in of]


def axis_title(panel: dict[str, Any], channel: str) -> str:
    return encodings(panel, channel)[0]["title"]


def domain(panel: dict[str, Any], channel: str) -> list[float]:
    return encodings(panel, channel)[0]["scale"]["domain"]
