"""Start training: `python examples/imagenet`."""

import pathlib
import sys

# The folder that holds both packages, `common` and `imagenet`, in place of this one.
sys.path[0] = str(pathlib.Path(__file__).resolve().parent.parent)

from common import script

if __name__ == "__main__":
    script.catch_signals("--resume goes on from the last whole epoch")

    from imagenet import arguments

    # Before the import of Keras, which takes seconds: --help and errors come at once.
    arguments.parse()

    from imagenet import train

    script.run(train.main)
