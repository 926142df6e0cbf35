"""Drawings: charts of Vega-Lite with small SVGs that can share a page, and pictures of them."""

import re
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any
from xml.etree import ElementTree

from headtohead.options import printable

# A view or layer of Vega-Lite, or a whole chart.
View = dict[str, Any]

# Words are shown in the first of these fonts that there is.
FONT = "Arial, Liberation Sans, DejaVu Sans, sans-serif"

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
# Attributes of an SVG that parts inherit from their group.
LIFTED = (
    "fill",
    "stroke",
    "stroke-width",
    "stroke-dasharray",
    "font-size",
    "font-weight",
    "text-anchor",
    "fill-opacity",
)


@dataclass(frozen=True)
class Drawing:
    """A figure that has been drawn.

    Attributes:
        name: Name of the figure and of its file.
        title: Title of the figure.
        caption: A sentence on what to look at.
        svg: The figure as an SVG element, in light colours; empty before it is drawn.
        spec: The figure as a chart of Vega-Lite, with its data.
        pixels: The figure as a PNG image, where another process has drawn one.
    """

    name: str
    title: str
    caption: str
    svg: str
    spec: View
    pixels: bytes = b""

    @property
    def png(self) -> bytes:
        """The figure as a PNG image, 1,000 pixels wide; a ValueError says that there is none."""
        return self.pixels or to_png(self.svg, 1000)

    def _repr_svg_(self) -> str:
        """Return what a notebook displays."""
        return self.svg

    def with_picture(self) -> "Drawing":
        """Return the drawing with its picture, or as it is where none can be drawn."""
        with suppress(Exception):  # whatever it is, a picture never costs the figure
            return replace(self, pixels=self.png)
        return self


def draw_chart(chart: Drawing) -> Drawing:
    """Return a drawing with its image."""
    import vl_convert  # it takes as long to start as some figures to draw

    svg = vl_convert.vegalite_to_svg(_without_interaction(chart.spec), show_warnings=False)
    return replace(chart, svg=to_svg(svg, chart.name, chart.title, FONT))


def _without_interaction(spec: View) -> View:
    """Return a chart without what answers to a reader: the layers that do nothing else, and selections."""
    views = [
        {**view, "concat": [_still(panel) for panel in view["concat"]]} if "concat" in view else view
        for view in spec["vconcat"]
    ]
    return {**spec, "vconcat": views}


def _still(view: View) -> View:
    kept = {key: value for key, value in view.items() if key != "params"}
    if "layer" in view:
        kept["layer"] = [_still(layer) for layer in view["layer"] if "params" not in layer]
    return kept


def to_svg(svg: str, name: str, title: str, font: str) -> str:
    """Return an SVG of Vega as a small one that can share a page with others.

    What all parts of a group have in common stands at the group. Ids are the name of the figure with a number.
    """
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    root = ElementTree.fromstring(svg)
    _shrink(root)
    root.set("role", "img")
    root.set("aria-label", printable(title))
    root.set("font-family", font)
    text = ElementTree.tostring(root, encoding="unicode")
    text = re.sub(r' (?:d|transform|x|y|x1|x2|y1|y2|width|height)="[^"]*"', _rounded, text)
    # Vega goes on counting from figure to figure.
    places: dict[str, int] = {}
    return re.sub(
        r'(\bid="|href="#|url\(#)([^")]+)',
        lambda found: f"{found[1]}{name}-{places.setdefault(found[2], len(places))}",
        text,
    )


def _rounded(attribute: re.Match[str]) -> str:
    """Return an attribute with its numbers to a tenth of a pixel."""
    return re.sub(r"-?\d*\.\d\d+(?:e-?\d+)?", lambda number: f"{round(float(number[0]), 1):g}", attribute[0])


def _shrink(element: ElementTree.Element) -> None:
    """Drop what says nothing from an element and its parts, and lift what all parts share."""
    for name in ("class", "role", "aria-hidden", "aria-roledescription", "pointer-events", "font-family"):
        element.attrib.pop(name, None)
    if element.get("opacity") == "1":
        del element.attrib["opacity"]
    for child in [*element]:
        _shrink(child)
        is_empty = not len(child) and not (child.text or "").strip()
        is_group = child.tag == f"{{{SVG}}}g"
        if is_empty and (is_group or child.get("display") == "none" or child.get("d") in ("", "M0,0h0v0h0Z")):
            element.remove(child)
    if element.tag == f"{{{SVG}}}g" and len(element) > 1:
        for name in LIFTED:
            values = {child.get(name) for child in element}
            if len(values) == 1 and None not in values and name not in element.attrib:
                element.set(name, values.pop() or "")
                for child in element:
                    del child.attrib[name]


def to_png(svg: str, width: int) -> bytes:
    """Return an SVG as a PNG image `width` pixels wide."""
    import vl_convert

    found = re.match(r'<svg[^>]* width="([\d.]+)"', svg)
    if found is None:
        raise ValueError("no figure was drawn")
    return vl_convert.svg_to_png(svg, scale=(width + 0.5) / float(found[1]))  # it rounds down
