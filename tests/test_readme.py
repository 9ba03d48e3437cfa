import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_python_snippets_run():
    snippets = blocks("python")
    assert len(snippets) >= 2
    namespace = {}
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), namespace)
    assert namespace["mlp"].output_shape == (None, 64)
    assert namespace["model"].output_shape == (None, 196, 192)
    # The report that the README shows, but for the norms before.
    shown = re.search(r"<!-- report -->\n```\n(.*?)```", README, re.DOTALL).group(1)
    printed = str(namespace["report"]).splitlines()
    without_norms = [re.sub(r"(mlp|depthwise) +[\d.]+ +", "", line) for line in printed]
    for line in shown.splitlines():
        if line != "...":
            assert re.sub(r"(mlp|depthwise) +[\d.]+ +", "", line) in without_norms


def test_commands_name_files_and_options_that_exist():
    options = (ROOT / "examples" / "cifar10.py").read_text()
    commands = re.findall(
        r"examples/cifar10\.py(.*)", "\n".join(blocks("bash")).replace("\\\n", "")
    )
    assert len(commands) >= 2
    for command in commands:
        for option in re.findall(r"--[a-z-]+", command):
            assert f'"{option}"' in options, option


def test_extras_exist():
    pyproject = (ROOT / "pyproject.toml").read_text()
    for extras in re.findall(r"'\.\[([a-z,]+)\]'", README):
        for extra in extras.split(","):
            assert re.search(rf"^{extra} = \[", pyproject, re.MULTILINE), extra


def test_links_point_to_files():
    for link in re.findall(r"\]\((?!http)([^)#]+)", README):
        assert (ROOT / link).exists(), link
