"""Build sdist and wheel, check them, install each and use it: `python check_package.py FOLDER`."""

import pathlib
import subprocess
import sys
import tarfile

# Run from the unpacked sdist: quick ones that need no other package.
TESTS = (
    "tests/test_names.py",
    "tests/docs/test_readme.py::test_links_point_to_files_and_headings",
)
WHERE = "import keras_mimetic; print(keras_mimetic.__version__, keras_mimetic.__file__)"


def python(*arguments, **options):
    """Run Python without the current folder on its path, so that what is installed is used."""
    print("+ python", *arguments, flush=True)
    command = [sys.executable, "-P", *map(str, arguments)]
    return subprocess.run(command, check=True, text=True, **options)


def install(package):
    """Install a file without its dependencies, which are there, in place of another build."""
    python("-m", "pip", "install", "--quiet", "--force-reinstall", "--no-deps", package)
    where = python("-c", WHERE, stdout=subprocess.PIPE).stdout
    assert "site-packages" in where, where


def main(folder):
    """Check both packages."""
    python("-m", "build", "--outdir", folder)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    python("-m", "twine", "check", "--strict", sdist, wheel)
    install(wheel)
    install(sdist)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    root = folder / sdist.name.removesuffix(".tar.gz")
    python("-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS, cwd=root)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
