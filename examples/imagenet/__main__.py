"""Start training: `python examples/imagenet`."""

import pathlib
import sys

# The folder of both packages, `common` and `imagenet`, in place of this one.
sys.path[:1] = [str(pathlib.Path(__file__).resolve().parent.parent)]

from common import script
from imagenet import recipe

if __name__ == "__main__":
    script.start(recipe.parse, "--resume continues from the last complete epoch")

    from imagenet import train

    train.main()
