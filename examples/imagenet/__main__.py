"""Start training: `python examples/imagenet`."""

import pathlib
import sys

# The folder of both packages, `common` and `imagenet`, in place of this one.
sys.path[:1] = [str(pathlib.Path(__file__).resolve().parent.parent)]

from common import options
from imagenet import recipe

if __name__ == "__main__":
    options.start(recipe.parse)

    from imagenet import train

    train.main()
