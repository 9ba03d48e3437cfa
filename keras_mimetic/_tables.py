"""Tables as HTML for notebooks, and as rich renderables for terminals."""

import html
from collections.abc import Iterable, Sequence
from typing import Any


def html_table(
    caption: str, lines: Sequence[Sequence[str]], notes: Iterable[str] = (), legend: str = ""
) -> str:
    """Return an HTML table with a caption.

    Args:
        caption: Line above the table.
        lines: Cells as plain text; the first line has the headings. Without lines, there
            is no table.
        notes: Paragraphs below the table.
        legend: Explanation of the headings, above the table.
    """
    parts = [_paragraph(caption, bold=True)]
    if legend:
        parts.append(_paragraph(legend))
    if lines:
        head, *body = lines
        parts.append(f"<table>\n<thead>{_line(head, 'th')}</thead>\n<tbody>")
        parts += [_line(line, "td") for line in body]
        parts.append("</tbody>\n</table>")
    return "\n".join([*parts, *map(_paragraph, notes)])


def rich_table(
    caption: str, lines: Sequence[Sequence[str]], notes: Iterable[str] = (), legend: str = ""
) -> Any:
    """Return a rich renderable of a table for a terminal, whose cells wrap to its width.

    Arguments are those of `html_table`.
    """
    # Imported here: Keras imports rich, but not these modules.
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    # `Text` prevents rich from reading brackets in cells as markup.
    parts: list[Any] = [Text(caption, style="bold")]
    if legend:
        parts.append(Text(legend, style="dim"))
    if lines:
        head, *body = lines
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for heading in head:
            table.add_column(Text(heading), overflow="fold")
        for line in body:
            table.add_row(*map(Text, line))
        parts.append(table)
    return Group(*parts, *map(Text, notes))


def show(result: Any) -> None:
    """Print a result as a rich table in a terminal, and as plain text elsewhere."""
    from rich.console import Console

    console = Console()
    if console.is_terminal:
        console.print(result)
    else:
        print(result)


def _line(cells: Sequence[str], tag: str) -> str:
    style = ' style="text-align: left"'
    return f"<tr>{''.join(f'<{tag}{style}>{html.escape(x)}</{tag}>' for x in cells)}</tr>"


def _paragraph(text: str, bold: bool = False) -> str:
    text = html.escape(text)
    return f"<p><b>{text}</b></p>" if bold else f"<p>{text}</p>"
