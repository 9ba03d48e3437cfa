"""The README and the pages of docs/: what they show runs, and what they name exists."""

import ast
import re
import textwrap

import keras
import numpy as np
import paths
import pytest
from arrays import array

import keras_mimetic
from keras_mimetic._structures import STRUCTURES

ROOT = paths.ROOT
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OTHERS = ["CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"]
OTHERS += ["benchmarks/README.md", "examples/README.md", "examples/imagenet/README.md"]
OTHERS = [ROOT / name for name in OTHERS]
every_page = pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=lambda page: page.name)


def blocks(page, language):
    """Also those in lists, which are indented."""
    found = re.findall(
        rf"^( *)```{language}\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE
    )
    return [textwrap.dedent(block) for _, block in found]


def without_norms(line):
    """A line of a report but for the norms, which follow the kernels that Keras drew."""
    line = re.sub(r"(attention|mlp|depthwise|position)( +[\d.]+)+ +", r"\1 ", line)
    line = re.sub(r"(by a factor of) \d+", r"\1", line)
    # The headings move with the norms.
    return re.sub(" {2,}", "  ", line)


def run(page):
    """Run a page's snippets one after the other; their namespace."""
    namespace = {}
    for snippet in blocks(page, "python"):
        exec(compile(snippet, page.name, "exec"), namespace)
    return namespace


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Snippets set it; what other tests start should not see that.
    monkeypatch.setenv("KERAS_BACKEND", keras.backend.backend())
    known = {**STRUCTURES}
    yield
    for name in STRUCTURES.keys() - known:  # that a page has registered
        del STRUCTURES[name]


def images(count):
    """A few images in the place of CIFAR-10."""
    random = np.random.default_rng(0)
    return random.integers(256, size=(count, 32, 32, 3)), random.integers(10, size=(count, 1))


def test_readme_runs(tmp_path, monkeypatch):
    cifar10 = keras.datasets.cifar10
    monkeypatch.setattr(cifar10, "load_data", lambda: (images(32), images(16)))
    # Names of layers are numbered from the start, as in a new process.
    keras.utils.clear_session()
    namespace = run(ROOT / "README.md")
    assert namespace["model"].output_shape == (None, 10)
    assert (tmp_path / "network.png").exists()
    shown = re.search(r"<!-- report -->\n```\n(.*?)```", README, re.DOTALL).group(1)
    printed = [without_norms(line) for line in str(namespace["report"]).splitlines()]
    for line in shown.splitlines():
        if line != "...":
            assert without_norms(line) in printed


WITH_SNIPPETS = [
    # On every backend those that ask what it is.
    page
    if "keras.backend.backend()" in page.read_text()
    else pytest.param(page, marks=pytest.mark.one_backend)
    for page in [*PAGES[1:], *OTHERS]
    if blocks(page, "python")
]


@pytest.mark.parametrize("page", WITH_SNIPPETS, ids=lambda page: page.name)
def test_snippets_of_docs_run(page):
    try:
        run(page)
    finally:
        if keras.backend.backend() == "jax":
            keras.distribution.set_distribution(None)


def test_normals_of_0_02_are_that():
    draws = array(run(ROOT / "docs" / "coming-from.md")["initializer"]((100, 100)))
    assert abs(draws.mean()) < 1e-3
    assert 0.015 < draws.std() < 0.02


def test_pages_show_what_they_print(capsys):
    page = ROOT / "docs" / "rules.md"
    shown = re.search(r"<!-- report -->\n```\n(.*?)```", page.read_text(), re.DOTALL).group(1)
    run(page)
    printed = [without_norms(line) for line in capsys.readouterr().out.splitlines()]
    for line in shown.splitlines():
        assert without_norms(line) in printed


def test_the_table_of_settings_is_complete():
    """And has the defaults of the code."""
    text = (ROOT / "docs" / "structures.md").read_text().partition("## Settings")[2]
    cells = re.compile(r"^\| (.*?) ?\| (`.*?) \| (.*?) \|", re.MULTILINE)
    shown, structure = {}, None
    for first, names, defaults in cells.findall(text):
        structure = first.strip('`"') or structure
        names = re.findall(r"`(\w+)`", names)
        defaults = defaults.replace("\N{MINUS SIGN}", "-").split(", ")
        for name, default in zip(names, defaults, strict=True):
            shown.setdefault(structure, {})[name] = ast.literal_eval(default.strip("`"))
    assert shown == {name: dict(entry.defaults) for name, entry in STRUCTURES.items()}


def test_every_guide_is_in_the_navigation():
    config = (ROOT / "mkdocs.yml").read_text()
    for page in PAGES[1:]:
        assert f": {page.relative_to(ROOT / 'docs')}\n" in config, page


def test_readme_is_short():
    assert len(README.splitlines()) <= 165


@every_page
def test_commands_name_files_and_options_that_exist(page):
    shared = (ROOT / "examples" / "common" / "options.py").read_text()
    text = "\n".join(blocks(page, "bash")).replace("\\\n", "")
    for script, arguments in re.findall(r"((?:examples|benchmarks)/[\w.]+)(.*)", text):
        path = ROOT / script
        sources = path.glob("*.py") if path.is_dir() else [path]
        options = "".join(source.read_text() for source in sources) + shared
        for option in re.findall(r"--[a-z-]+", arguments):
            # Of a dictionary whose keys are options, the key.
            field = '    "{}": '.format(option[2:].replace("-", "_"))
            assert f'"{option}"' in options or field in options, (script, option)


@every_page
def test_extras_exist(page):
    pyproject = (ROOT / "pyproject.toml").read_text()
    for extras in re.findall(r"'\.\[([a-z,]+)\]'", page.read_text()):
        for extra in extras.split(","):
            assert re.search(rf"^{extra} = \[", pyproject, re.MULTILINE), extra


def anchors(page):
    """What GitHub and MkDocs make of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_links_point_to_files_and_headings(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for link, anchor in re.findall(r"\]\(\s*(?!http)([^)#]*)#?([^)]*)\)", text):
        target = (page.parent / link) if link else page
        # The figures are left out of the sdist, as results of the benchmarks are.
        results = ROOT / "benchmarks" / "results"
        if target.resolve().is_relative_to(results) and not results.exists():
            continue
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), (link, anchor)


def test_the_api_pages_have_every_public_name():
    text = "".join(page.read_text() for page in (ROOT / "docs" / "api").glob("*.md"))
    documented = set(re.findall(r"^::: keras_mimetic\.[\w.]*?(\w+)$", text, re.MULTILINE))
    documented |= set(re.findall(r"`(?:\w+\.)*(\w+)`", text))
    public = {name for name in keras_mimetic.__all__ if name != "__version__"}
    for module in ("callbacks", "initializers", "layers", "structures"):
        public.remove(module)
        public.update(getattr(keras_mimetic, module).__all__)
    assert public <= documented
