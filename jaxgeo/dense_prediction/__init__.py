"""A class or a depth for every pixel: data, networks, training and scores put together.

For `jaxgeo train heal-swin`, `jaxgeo evaluate heal-swin` and `jaxgeo predict`. `config` says what can be asked for and
`presets` what was published, `viewing` where pictures look, `examples` and `problems` what is learnt from, `networks`
the pure functions, `fitting` trains and resumes or takes weights, `scoring` judges on the sphere and in the plane,
`figures` shows it, `ensembles` averages runs, `predicting` maps a whole globe.
"""
