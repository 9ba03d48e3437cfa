"""MkDocs hooks: add the pages and pictures that are outside docs/, and render formulas.

The README is the home page. Links are written for readers of the repository; here they are
rewritten for the site, where docs/ is the root and the notebook is a page.
"""

import pathlib
import re
import sys

from latex2mathml.converter import convert
from mkdocs.structure.files import File

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import make_notebook

ROOT = pathlib.Path(__file__).parent.parent
PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")
PAGES += ("benchmarks/README.md", "benchmarks/PROTOCOL.md")
PAGES += ("examples/README.md", "examples/imagenet/README.md")
RESULTS = ("*.md", "*.png", "*.txt", "*.csv")
# Names of what changed would be found before what it is.
NOT_SEARCHED = ("CHANGELOG.md", "benchmarks/results/")


def on_files(files, config):
    """Add the files from outside."""
    outside = {name: ROOT / name for name in PAGES} | {"index.md": ROOT / "README.md"}
    for pattern in RESULTS:
        for path in (ROOT / "benchmarks" / "results").rglob(pattern):
            outside[path.relative_to(ROOT).as_posix()] = path
    for name, path in outside.items():
        files.append(File.generated(config, name, abs_src_path=str(path)))
    text, pictures = make_notebook.page(make_notebook.NOTEBOOK.read_text(encoding="utf-8"))
    files.append(File.generated(config, "examples/quickstart.md", content=text))
    for name, content in pictures.items():
        files.append(File.generated(config, f"examples/{name}", content=content))
    results = results_page(name for name in outside if name.startswith("benchmarks/results"))
    files.append(File.generated(config, "benchmarks/results/index.md", content=results))
    return files


def results_page(names):
    """Return the list of all files of results, which a server does not make."""
    lines = ["# All results", ""]
    for name in sorted(names):
        short = name.removeprefix("benchmarks/results/")
        lines.append(f"- [{short}]({short})")
    return "\n".join(lines)


def on_page_markdown(markdown, page, config, files):
    """Rewrite links between docs/ and the files outside, and render formulas."""
    name = page.file.src_uri
    if name in ("index.md", "examples/quickstart.md"):
        page.meta["hide"] = ["toc"]  # the full width
    if name.startswith(NOT_SEARCHED):
        page.meta["search"] = {"exclude": True}
    markdown = re.sub(r"```math\n(.*?)```", _formula, markdown, flags=re.DOTALL)
    markdown = markdown.replace("quickstart.ipynb)", "quickstart.md)")
    markdown = re.sub(r"\]\(results\)", "](results/index.md)", markdown)
    # From docs/ or another folder of the repository's root, that is the home page.
    if name.count("/") == (page.file.generated_by is not None):
        markdown = markdown.replace("](../README.md", "](../index.md")
    if page.file.generated_by is None:
        # Pages of docs/api are one folder deeper here, too.
        return re.sub(r"\]\(\.\./(?=benchmarks|examples|index|[A-Z])", "](", markdown)
    markdown = re.sub(r'(src|srcset)="docs/', r'\1="', markdown)
    return re.sub(r"\]\((\.\./)?docs/", r"](\1", markdown)


def _formula(found):
    return convert(found[1].strip(), display="block")
