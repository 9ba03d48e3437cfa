"""Tables for notebooks."""

import html
from collections.abc import Iterable, Sequence


def table(
    caption: str, lines: Sequence[Sequence[str]], notes: Iterable[str] = (), legend: str = ""
) -> str:
    """An HTML table with its heading in the first line, under a caption.

    Args:
        caption: A line above the table.
        lines: Cells as plain text, the first line's as headings; without lines there is
            no table.
        notes: Paragraphs below the table.
        legend: What the headings mean, above the table.
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


def _line(cells: Sequence[str], tag: str) -> str:
    style = ' style="text-align: left"'
    return f"<tr>{''.join(f'<{tag}{style}>{html.escape(x)}</{tag}>' for x in cells)}</tr>"


def _paragraph(text: str, bold: bool = False) -> str:
    text = html.escape(text)
    return f"<p><b>{text}</b></p>" if bold else f"<p>{text}</p>"
