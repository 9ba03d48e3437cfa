"""The built site: `mkdocs build` comes first, as in `tox -e docs`."""

import html.parser
import json
import pathlib
import re
import urllib.parse

import pytest

pytest.importorskip("mkdocs")
SITE = pathlib.Path(__file__).parent.parent.parent / "build" / "site"
if not SITE.exists():
    pytest.skip("the site is not built", allow_module_level=True)
# Shown where an address is wrong, at any depth; its own links begin with a slash.
PAGES = [page for page in SITE.rglob("*.html") if page.name != "404.html"]


class Links(html.parser.HTMLParser):
    """The addresses and anchors of a page, and what it loads."""

    def __init__(self, page):
        super().__init__()
        self.links, self.loaded, self.anchors = [], [], set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.anchors |= {values.get("id"), values.get("name")}
        found = [values[name] for name in ("href", "src", "srcset") if values.get(name)]
        self.links += found
        if tag in ("script", "img", "source", "link", "iframe"):
            self.loaded += found


READ = {page: Links(page) for page in PAGES}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(SITE)))
def test_links_lead_somewhere(page):
    for link in READ[page].links:
        address = urllib.parse.urlsplit(link)
        if address.scheme or address.netloc:
            continue
        target = (page.parent / urllib.parse.unquote(address.path)).resolve()
        target = target / "index.html" if target.is_dir() else target
        target = page if not address.path else target
        assert target.is_relative_to(SITE), link
        assert target.exists(), link
        if address.fragment and target in READ:
            assert urllib.parse.unquote(address.fragment) in READ[target].anchors, link


def test_pages_load_nothing_from_elsewhere():
    for page, read in READ.items():
        for link in read.loaded:
            assert not urllib.parse.urlsplit(link).netloc, (page, link)


def test_no_compiled_files():
    assert not [path for path in SITE.rglob("*") if path.suffix in (".py", ".pyc")]


def test_formulas_are_rendered():
    page = (SITE / "how-it-works" / "index.html").read_text(encoding="utf-8")
    formulas = re.findall("<math.*?</math>", page)
    assert len(formulas) == 4
    # What the converter does not know stays as it is.
    assert not any("&amp;" in formula or "\\" in formula for formula in formulas)


def test_the_search_knows_the_names_that_people_type():
    index = json.loads((SITE / "search" / "search_index.json").read_text(encoding="utf-8"))["docs"]
    for word in ("SwiGLU", "GQA", "RMSNorm", "timm", "learning rate"):
        assert any(word in entry["title"] + entry["text"] for entry in index), word
    assert not [entry for entry in index if entry["location"].startswith("CHANGELOG")]
    boosts = {entry["location"]: entry.get("boost", 1) for entry in index}
    assert boosts["api/initialize/"] == max(boosts.values())
