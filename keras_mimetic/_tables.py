"""Results as tables: plain text, HTML for notebooks, rich renderables for terminals."""

import dataclasses
import html
import math
import textwrap
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType


@dataclasses.dataclass(frozen=True)
class Table:
    """A table with a caption.

    Attributes:
        caption: Line above the table.
        lines: Cells as plain text, names in the first column; the first line has the headings.
        legend: Explanation of the headings.
        notes: Paragraphs below the table.
    """

    caption: str
    lines: Sequence[Sequence[str]] = ()
    legend: str = ""
    notes: Sequence[str] = ()

    def text(self, width: int | None = None) -> str:
        """Return plain text; columns that do not fit the width follow below."""

        def filled(text: str) -> str:
            return textwrap.fill(text, width, subsequent_indent="  ") if width else text

        head = f"{self.caption}: {self.legend}" if self.legend else self.caption
        text = [filled(head)]
        for part in self._parts(width or math.inf):
            widths = [max(map(len, column)) for column in zip(*part, strict=True)]
            text += ["  ".join(map(str.ljust, line, widths)).rstrip() for line in part]
        return "\n".join([*text, *map(filled, self.notes)])

    def html(self) -> str:
        """Return HTML for a notebook."""
        parts = [f"<p><b>{html.escape(self.caption)}</b></p>"]
        if self.legend:
            parts.append(_paragraph(self.legend))
        if self.lines:
            head, *body = self.lines
            parts.append(f"<table>\n<thead>{_line(head, 'th')}</thead>\n<tbody>")
            parts += [_line(line, "td") for line in body]
            parts.append("</tbody>\n</table>")
        return "\n".join([*parts, *map(_paragraph, self.notes)])

    def rich(self, width: int) -> "Iterator[RenderableType]":
        """Yield renderables that fit a terminal; columns that do not fit follow below."""
        # Imported here: Keras imports rich, but not these modules.
        from rich import box, table
        from rich.text import Text

        # `Text` prevents rich from reading brackets in cells as markup.
        yield Text(self.caption, style="bold")
        if self.legend:
            yield Text(self.legend, style="dim")
        for head, *body in self._parts(width):
            yield Text()
            part = table.Table(
                box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0)
            )
            for number, heading in enumerate(head):
                part.add_column(Text(heading), overflow="fold", no_wrap=number == 0)
            for line in body:
                part.add_row(*map(Text, line))
            yield part
        yield from map(Text, self.notes)

    def _parts(self, width: float) -> list[list[tuple[str, ...]]]:
        """Return the lines with the columns that fit, then the names with the next columns."""
        if not self.lines:
            return []
        half = width / 2
        names, *columns = zip(*self.lines, strict=True)
        names = tuple(_shortened(name, half - 2) for name in names)

        def fits(columns: list[tuple[str, ...]]) -> bool:
            # Longer cells wrap in terminals.
            return sum(min(max(map(len, each)), half) + 2 for each in columns) - 2 <= width

        parts: list[list[tuple[str, ...]]] = []
        for column in columns:
            if parts and fits([names, *parts[-1], column]):
                parts[-1].append(column)
            else:
                parts.append([column])
        # A part leaves out lines without cells.
        lines = [[*zip(names, *part, strict=True)] for part in parts]
        return [[line for line in part if any(line[1:])] for part in lines]


class Result:
    """A result that `print`, notebooks and terminals show as tables."""

    # Columns of the text of `print`; `None` for any number.
    _text_width: ClassVar[int | None] = None

    def show(self) -> None:
        """Print tables that fit the terminal; in files and pipes, the text of `print`."""
        from rich.console import Console

        console = Console()
        if console.is_terminal:
            console.print(self)
        else:
            print(self)

    def __str__(self) -> str:
        return "\n\n".join(table.text(self._text_width) for table in self._tables())

    def _repr_html_(self) -> str:
        """Return the tables for a notebook."""
        return "\n".join(table.html() for table in self._tables())

    def __rich_console__(
        self, console: "Console", options: "ConsoleOptions"
    ) -> "Iterator[RenderableType]":
        """Yield the tables for rich, as in `rich.print(report)`."""
        for number, table in enumerate(self._tables()):
            yield from [""] if number else []
            yield from table.rich(options.max_width)

    def _tables(self) -> list[Table]:
        raise NotImplementedError


def _shortened(name: str, length: float) -> str:
    return name if len(name) <= length else f"...{name[3 - int(length) :]}"


def _line(cells: Sequence[str], tag: str) -> str:
    style = ' style="text-align: left"'
    return f"<tr>{''.join(f'<{tag}{style}>{html.escape(x)}</{tag}>' for x in cells)}</tr>"


def _paragraph(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"
