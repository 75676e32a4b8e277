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
from jaxgeo.layers.dropout import RowDropout
from jaxgeo.metrics import scores, uncertainty
from jaxgeo.models.healpix_classifier import HealpixClassifier, HealpixClassifierConfig
from jaxgeo.plotting.sphere import mollweide_grid
from jaxgeo.posteriors import base, deep_ensemble, mc_dropout
from jaxgeo.posteriors.log_joint import GaussianPrior, LogJoint, pure_apply
from jaxgeo.training import ensemble

# %% [markdown]
# ## Digits on the sphere
# Real handwritten digits, projected onto NESTED HEALPix maps; the same images once more, turned by random rotations.

# %%
digits = load_digits("sklearn", num_train=400, num_test=200)
plan = projection.plan_stereographic(nside=8, image_shape=digits.train_images.shape[1:])
upright = rotations.about_y(jnp.asarray(jnp.pi / 2))


def on_sphere(images, turns):
    """Maps with one channel, as the network takes them."""
    return projection.project(plan, jnp.asarray(images), turns)[..., None]


def everywhere(rotation, images):
    """The same rotation for each image."""
    return jnp.broadcast_to(rotation, (len(images), 3, 3))


train = on_sphere(digits.train_images, everywhere(upright, digits.train_images))
test = on_sphere(digits.test_images, everywhere(upright, digits.test_images))
turned = on_sphere(digits.test_images, rotations.haar_rotations(jax.random.key(0), (len(digits.test_images),)))
gallery = mollweide_grid(jnp.stack([test[0, :, 0], turned[0, :, 0]]), ["upright", "turned"], columns=2)

# %% [markdown]
# ## Eight networks in one compiled program
# Each member goes to a maximum of the log joint; a maximum is not a draw from the posterior. Under a narrow prior the
# maxima agree nearly everywhere, even about what they never saw; under this wide one they differ somewhat.

# %%
network = HealpixClassifier(HealpixClassifierConfig())
apply = pure_apply(network, train[:1])
log_joint = LogJoint(apply, GaussianPrior(2.0))
config = ensemble.TrainingConfig(epochs=40)
labels_train = jnp.asarray(digits.train_labels)


def init_member(key):
    """An untrained network."""
    return network.init(key, train[:1])["params"]


members = ensemble.init_ensemble(jax.random.split(jax.random.key(1), 8), init_member, config)
members, history = ensemble.fit(
    members, deep_ensemble.objective(log_joint, len(labels_train)), train, labels_train, config
)

# %% [markdown]
# ## What they know, and what they know that they do not know


# %%
def predict(stacked, maps):
    """Log-probabilities (draw, image, class) of a stack of parameter trees."""
    return jax.nn.log_softmax(jax.vmap(apply, (0, None))(stacked, maps))


labels = jnp.asarray(digits.test_labels)
accuracy = float(scores.accuracy(predict(members.params, test), labels))
upright_information = float(uncertainty.mutual_information(predict(members.params, test)).mean())
turned_information = float(uncertainty.mutual_information(predict(members.params, turned)).mean())
print(f"accuracy upright: {accuracy:.3f}")
print(f"mutual information: upright {upright_information:.3f} nats, turned {turned_information:.3f} nats")

# %% [markdown]
# ## Draws of another posterior
# Every family is three functions: `init` trains, `sample` draws an ordinary parameter tree, and `log_prob` answers
# where there is a density. Monte Carlo dropout draws masks on the weights of one network.

# %%
dropout = RowDropout(rate=0.1, fixed=("conv_0",))


def train_under_masks(key, untrained):
    """Trained centres of a stack of dropout families."""
    keys = jax.random.split(key, base.num_stacked(untrained))
    state = ensemble.init_ensemble(keys, init_member, config)._replace(params=untrained)
    objective = mc_dropout.objective(log_joint, dropout, len(labels_train))
    state, _ = ensemble.fit(state, objective, train, labels_train, config)
    return state.params


posterior = mc_dropout.mc_dropout(init_member, dropout, num_members=1, train=train_under_masks)
centres = posterior.init(jax.random.key(2))
draws = base.sample_many(posterior, jax.random.key(3), centres, 32)
dropout_accuracy = float(scores.accuracy(predict(draws, test), labels))
dropout_information = float(uncertainty.mutual_information(predict(draws, test)).mean())
print(f"32 draws of MC dropout: accuracy {dropout_accuracy:.3f}, mutual information {dropout_information:.3f} nats")
