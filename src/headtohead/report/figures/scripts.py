"""The part of a page that makes its figures answer to a reader: scripts, styles and the charts with their data."""

import json
import os
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

from headtohead.record.files import write_atomically
from headtohead.report.drawing import Drawing
from headtohead.report.figures.style import DARK, INK, LINE, PAPER, SOFT


def interactive(drawings: Sequence[Drawing]) -> str:
    """Return the HTML that replaces each static figure of a page by one to hover, to zoom and to choose arms in.

    It stands once before the end of the body. A figure is found as `.drawing` in `#figure-NAME`. Without scripts, in
    print and where a chart fails, the static figure stays.
    """
    if not drawings:
        return ""
    # The page's own colours, by the names of its variables.
    named = {INK: "--ink", SOFT: "--soft", LINE: "--line", PAPER: "--paper"}
    content = {"figures": {drawing.name: _figure(drawing) for drawing in drawings}, "dark": DARK, "named": named}
    template = (files("headtohead.report") / "templates" / "figures.html.j2").read_text(encoding="utf-8")
    for name, text in (("DATA", _json(content)), ("LIBRARIES", _script(libraries()))):
        template = template.replace(f"%{name}%", text, 1)
    return template


def _figure(drawing: Drawing) -> dict[str, object]:
    spec = drawing.spec
    panels = spec["vconcat"][-1]["concat"]
    return {
        "title": drawing.title,
        "panels": [{key: value for key, value in panel.items() if key != "width"} for panel in panels],
        "config": spec["config"],
        "params": spec["params"],
        **spec["usermeta"],
    }


def _json(content: object) -> str:
    """Return JSON that can stand in a script of a page, whatever its texts hold."""
    # Letters stay as they are, so that the name of the home folder is found in them.
    text = json.dumps(content, separators=(",", ":"), ensure_ascii=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _script(code: str) -> str:
    """Return code that does not end the script that it stands in."""
    return code.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def libraries() -> str:
    """Return the code of Vega, Vega-Lite and Vega-Embed. The user's cache keeps it: bundling takes a second."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    kept = Path(home, "headtohead", f"vega-{version('vl-convert-python')}.js")
    with suppress(OSError, UnicodeDecodeError):
        code = kept.read_text(encoding="utf-8")
        if code.endswith(END):
            return code
    import vl_convert  # it takes as long to start as some figures to draw

    bundle = vl_convert.javascript_bundle("window.vegaEmbed=vegaEmbed;")
    code = f"{bundle}\n{END}"
    with suppress(OSError):  # a cache that cannot be written costs time alone
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(kept, code)
    return code


END = "// the end\n"  # a file without it was cut off
