"""MkDocs hooks: add the pages and pictures that are outside docs/.

The README is the home page. Links are written for readers of the repository; here they are
rewritten for the site, where docs/ is the root and the notebook is a page.
"""

import pathlib
import re
import sys

from mkdocs.structure.files import File

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import make_notebook

ROOT = pathlib.Path(__file__).parent.parent
PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md")
PAGES += ("examples/README.md", "examples/imagenet/README.md")
RESULTS = ("*.md", "*.png", "*.txt", "*.csv")


def on_files(files, config):
    """Add the files from outside."""
    outside = {name: ROOT / name for name in PAGES} | {"index.md": ROOT / "README.md"}
    for pattern in RESULTS:
        for path in (ROOT / "benchmarks" / "results").glob(f"*/{pattern}"):
            outside[path.relative_to(ROOT).as_posix()] = path
    for name, path in outside.items():
        files.append(File.generated(config, name, abs_src_path=str(path)))
    quickstart = make_notebook.page(make_notebook.SOURCE.read_text(encoding="utf-8"))
    files.append(File.generated(config, "examples/quickstart.md", content=quickstart))
    return files


def on_page_markdown(markdown, page, config, files):
    """Rewrite links between docs/ and the files outside; give the home page the full width."""
    if page.file.src_uri == "index.md":
        page.meta["hide"] = ["toc"]
    markdown = markdown.replace("quickstart.ipynb)", "quickstart.md)")
    if page.file.generated_by is None:
        return re.sub(r"\]\(\.\./", "](", markdown)
    return re.sub(r"\]\((\.\./)?docs/", r"](\1", markdown)
