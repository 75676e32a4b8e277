"""Predictive log-probabilities `(draw, *batch, class)` and labels `(*batch,)` in, numbers out.

Nothing here knows where the probabilities came from: an ensemble, a Hamiltonian Monte Carlo run and an emulation
of firmware are judged by the same functions. `scorecard.score` gives every number at once with its errors; the
other modules hold one subject each, as pure functions that `jax.jit` takes. Entropies are in nats.

Dense prediction (a class or a depth for every pixel) is judged by `segmentation`, `depth` and `point_clouds`, from
predictions and targets on one and the same set of pixels, whichever grid they are of. A network can so be scored in
four spaces: on the sphere, or on the plane masked to what the sphere's pixels cover, where it predicts; and on the
other of the two, its predictions resampled to the targets there. What these functions need for it are weights, one for
each pixel: 1 for means over pixels, areas (solid angles) for means that do not depend on the grid, 0 outside of the
camera, of the mask, or of what resampling reaches. `depth` takes a mask as well; `segmentation` counts void labels,
such as 255, nowhere.
"""
