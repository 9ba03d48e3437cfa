import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_python_snippets_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    snippets = blocks("python")
    assert len(snippets) >= 2
    namespace = {}
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), namespace)
    assert namespace["mlp"].output_shape == (None, 64)
    assert namespace["model"].output_shape == (None, 196, 192)
    assert (tmp_path / "network.png").exists()
    assert (tmp_path / "network.csv").exists()
    # The report that the README shows, but for the norms before, and those of hidden
    # biases, which follow the kernels that Keras drew.
    shown = re.search(r"<!-- report -->\n```\n(.*?)```", README, re.DOTALL).group(1)
    printed = str(namespace["report"]).splitlines()
    norms = re.compile(r"mlp +[\d.]+ +[\d.]+ +|depthwise +[\d.]+ +")
    without_norms = [norms.sub("", line) for line in printed]
    for line in shown.splitlines():
        if line != "...":
            assert norms.sub("", line) in without_norms


def test_commands_name_files_and_options_that_exist():
    shared = (ROOT / "examples" / "options.py").read_text()
    commands = re.findall(r"examples/(\w+\.py)(.*)", "\n".join(blocks("bash")).replace("\\\n", ""))
    assert len(commands) >= 3
    for script, arguments in commands:
        options = (ROOT / "examples" / script).read_text() + shared
        for option in re.findall(r"--[a-z-]+", arguments):
            assert f'"{option}"' in options, (script, option)


def test_extras_exist():
    pyproject = (ROOT / "pyproject.toml").read_text()
    for extras in re.findall(r"'\.\[([a-z,]+)\]'", README):
        for extra in extras.split(","):
            assert re.search(rf"^{extra} = \[", pyproject, re.MULTILINE), extra


def test_links_point_to_files():
    for link in re.findall(r"\]\((?!http)([^)#]+)", README):
        assert (ROOT / link).exists(), link
