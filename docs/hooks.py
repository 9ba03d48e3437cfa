"""MkDocs: pages and pictures that stand outside docs/, each in its own place.

The README is the home page. Links stay as they are for readers of the repository; here they
are rewritten for the site, where docs/ is the root.
"""

import pathlib
import re

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parent.parent
PAGES = ("CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md")
PAGES += ("examples/README.md", "examples/imagenet/README.md", "examples/quickstart.ipynb")
RESULTS = ("*.md", "*.png", "*.txt", "*.csv")


def on_files(files, config):
    """Add what is outside."""
    outside = {name: ROOT / name for name in PAGES} | {"index.md": ROOT / "README.md"}
    for pattern in RESULTS:
        for path in (ROOT / "benchmarks" / "results").glob(f"*/{pattern}"):
            outside[path.relative_to(ROOT).as_posix()] = path
    for name, path in outside.items():
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Rewrite links between docs/ and what is outside."""
    if page.file.generated_by is None:
        return re.sub(r"\]\(\.\./", "](", markdown)
    return re.sub(r"\]\((\.\./)?docs/", r"](\1", markdown)
