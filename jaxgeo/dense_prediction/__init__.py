"""A class or a depth for every pixel: data, networks, training and scores put together, for `jaxgeo train heal-swin`.

`config` says what can be asked for, `problems` makes examples of it, `networks` the pure functions, `fitting` trains
and resumes, `scoring` judges on the sphere and in the plane, `predicting` maps a whole globe.
"""
