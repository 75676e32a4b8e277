"""Geometric deep learning with honest uncertainty, from mathematics to gates, as pure JAX functions.

Import the room that you need (`jaxgeo.grids.healpix`, `jaxgeo.posteriors.hmc`, ...): nothing is imported
for you here, so that `import jaxgeo` costs nothing and loads no sampler, no Keras and no hardware tool.
"""

__version__ = "0.1.0"
