"""Where in a model each structure could go."""

from keras_mimetic.sites.graph import Graph, sublayers, trace
from keras_mimetic.sites.places import places
from keras_mimetic.sites.site import Site

__all__ = ["Graph", "Site", "places", "sublayers", "trace"]
