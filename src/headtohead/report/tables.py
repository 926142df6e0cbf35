"""Tables in the terminal, in which no word is broken, however narrow it is. It imports nothing heavy."""

from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from headtohead.options import printable

# Columns of letters between two columns of a table.
GAP = 2


def plain_table() -> Table:
    """Return an empty table with a line below its headers."""
    return Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)


def shown(text: object) -> str:
    """Return a text from elsewhere as rich's markup, on one line."""
    return escape(printable(text))


def print_line(line: str) -> None:
    """Print a line to stdout, at once; a terminal breaks it between words."""
    console = Console()
    console.print(line, markup=False, highlight=False, soft_wrap=not console.is_terminal)


def print_table(console: Console, table: Table) -> None:
    """Print a table; where it is too narrow for a word or a number, print each row as a paragraph instead."""
    columns = [[Text.from_markup(str(cell)).plain for cell in column.cells] for column in table.columns]
    headers = [str(column.header) for column in table.columns]
    whole = [_widest([header, *cells]) for header, cells in zip(headers, columns, strict=True)]
    least = [
        width if column.no_wrap else _widest([word for cell in (header, *cells) for word in cell.split()])
        for column, header, cells, width in zip(table.columns, headers, columns, whole, strict=True)
    ]
    room = console.width - GAP * (len(whole) - 1)
    if sum(least) > room:
        for row in zip(*columns, strict=True):
            _print_paragraph(console, headers, row)
        return
    left = room - sum(least)
    for column, width, needed in zip(table.columns, whole, least, strict=True):
        column.width = min(width, needed + left)
        left -= column.width - needed
    console.print(table)


def _widest(texts: list[str]) -> int:
    """Return the width of the widest line of some texts."""
    return max((cell_len(line) for text in texts for line in text.splitlines()), default=0)


def _print_paragraph(console: Console, headers: list[str], row: tuple[str, ...]) -> None:
    """Print a row: its name, and below it the other cells, each after its header if there are several."""
    name, *cells = row
    console.print(Text(name), highlight=False)
    lines = cells if len(cells) == 1 else [f"{header}: {cell}" for header, cell in zip(headers[1:], cells, strict=True)]
    console.print(Padding(Text("\n".join(lines)), (0, 0, 0, GAP), expand=False), highlight=False)
