"""Where in a model each structure could go."""

from keras_mimetic.sites.graph import Graph
from keras_mimetic.sites.places import places
from keras_mimetic.sites.site import Site, values_of
from keras_mimetic.sites.trace import trace
from keras_mimetic.sites.untouched import sublayers

__all__ = ["Graph", "Site", "places", "sublayers", "trace", "values_of"]
