# ---
# jupyter:
#   jupytext:
#     formats: py:percent
# ---

# %% [markdown]
# # From a digit on the sphere to an ensemble's uncertainty
#
# Open as a notebook with jupytext, or run as a script. Every step is one pure function.

# %%
import jax
import jax.numpy as jnp

from jaxgeo.data.digits import load_digits
from jaxgeo.grids import projection, rotations
from jaxgeo.metrics import scores, uncertainty
from jaxgeo.models.healpix_classifier import HealpixClassifier, HealpixClassifierConfig
from jaxgeo.plotting.sphere import mollweide_grid
from jaxgeo.posteriors import deep_ensemble
from jaxgeo.posteriors.log_joint import LogJoint, pure_apply
from jaxgeo.training import ensemble

# %% [markdown]
# ## Digits on the sphere
# Real handwritten digits, projected onto NESTED HEALPix maps; the same images once more, turned by random rotations.

# %%
digits = load_digits("sklearn", num_train=400, num_test=200)
plan = projection.plan_stereographic(nside=8, image_shape=digits.train_images.shape[1:])
upright = rotations.about_y(jnp.pi / 2)


def on_sphere(images, turns):
    """Maps with one channel, as the network takes them."""
    return projection.project(plan, jnp.asarray(images), turns)[..., None]


def everywhere(rotation, images):
    """The same rotation for each image."""
    return jnp.broadcast_to(rotation, (len(images), 3, 3))


train = on_sphere(digits.train_images, everywhere(upright, digits.train_images))
test = on_sphere(digits.test_images, everywhere(upright, digits.test_images))
turned = on_sphere(digits.test_images, rotations.haar_rotations(jax.random.key(0), (len(digits.test_images),)))
gallery = mollweide_grid([test[0, :, 0], turned[0, :, 0]], ["upright", "turned"], columns=2)

# %% [markdown]
# ## Eight networks in one compiled program

# %%
network = HealpixClassifier(HealpixClassifierConfig())
apply = pure_apply(network, train[:1])
log_joint = LogJoint(apply)
config = ensemble.TrainingConfig(epochs=60)
members = ensemble.init_ensemble(
    jax.random.split(jax.random.key(1), 8), lambda key: network.init(key, train[:1])["params"], config
)
members, history = ensemble.fit(
    members,
    deep_ensemble.objective(log_joint, len(digits.train_labels)),
    train,
    jnp.asarray(digits.train_labels),
    config,
)

# %% [markdown]
# ## What they know, and what they know that they do not know


# %%
def predict(maps):
    """Log-probabilities (member, image, class)."""
    return jax.nn.log_softmax(jax.vmap(apply, (0, None))(members.params, maps))


labels = jnp.asarray(digits.test_labels)
accuracy = float(scores.accuracy(predict(test), labels))
upright_information = float(uncertainty.mutual_information(predict(test)).mean())
turned_information = float(uncertainty.mutual_information(predict(turned)).mean())
print(f"accuracy upright: {accuracy:.3f}")
print(f"mutual information: upright {upright_information:.3f} nats, turned {turned_information:.3f} nats")
