"""Closed forms of what an ensemble of ResNets holds, does and sends; numbers are float32."""

from typing import NamedTuple

from jaxgeo.errors import ConfigError
from jaxgeo.models.resnet import STAGES, ResNetConfig
from jaxgeo.training import ensemble, meshes

FLOAT_BYTES = 4


class Convolution(NamedTuple):
    """One convolution of a network, padded as XLA's SAME."""

    kernel: int
    inputs: int  # channels
    outputs: int
    size: int  # rows, and columns, of what comes in
    stride: int = 1
    shares_input: bool = False  # with another convolution: a projection reads what its block's first layer reads

    @property
    def new_size(self) -> int:
        """Rows, and columns, of what goes out."""
        return -(-self.size // self.stride)

    @property
    def weights(self) -> int:
        """Of the kernel and its bias."""
        return self.kernel**2 * self.inputs * self.outputs + self.outputs

    @property
    def taps(self) -> int:
        """Pairs of an output row and a kernel row that meet a row of the image, and not the padding."""
        behind = max((self.new_size - 1) * self.stride + self.kernel - self.size, 0)
        first = -(behind // 2)
        return sum(
            0 <= first + row * self.stride + tap < self.size
            for row in range(self.new_size)
            for tap in range(self.kernel)
        )

    @property
    def flops(self) -> int:
        """Of one image: two (a product and a sum) for each tap, input and output channel; padding costs nothing."""
        return 2 * self.taps**2 * self.inputs * self.outputs


def convolutions(config: ResNetConfig, size: int) -> list[Convolution]:
    """All convolutions of a ResNet on images of `size` x `size` pixels; the stem is first."""
    found, channels = [Convolution(3, config.channels, config.features, size)], config.features
    for stage in range(STAGES):
        for block in range(config.blocks):
            features, stride = config.features << stage, 2 if stage and not block else 1
            first = Convolution(3, channels, features, size, stride)
            found += [first, Convolution(3, features, features, first.new_size)]
            if stride > 1 or channels != features:
                found.append(Convolution(1, channels, features, size, stride, shares_input=True))
            channels, size = features, first.new_size
    return found


def parameters(config: ResNetConfig) -> int:
    """Weights of one ResNet: kernels and biases, two or three numbers a channel for the norms, the head."""
    norm = 3 if config.norm == "tau" else 2
    features = config.features << (STAGES - 1)
    layers = sum(layer.weights + norm * layer.outputs for layer in convolutions(config, 32))
    return layers + (features + 1) * config.num_classes


def step_flops(config: ResNetConfig, size: int, batch: int) -> int:
    """Operations of the convolutions and the head in one training step of one member.

    Forward, gradient of the kernel and gradient of the images cost the same; no gradient of the first images is asked
    for.
    """
    layers = convolutions(config, size)
    head = 2 * (config.features << (STAGES - 1)) * config.num_classes
    return batch * (3 * (sum(layer.flops for layer in layers) + head) - layers[0].flops)


def activation_bytes(config: ResNetConfig, size: int, batch: int) -> int:
    """What the gradients of one member read again, at the least: what goes into and comes out of each convolution."""
    values = 0
    for layer in convolutions(config, size):
        values += layer.outputs * layer.new_size**2
        values += 0 if layer.shares_input else layer.inputs * layer.size**2
    return FLOAT_BYTES * batch * values


def optimizer_bytes(weights: int) -> int:
    """State of SGD with momentum: one number for each weight, and the count of steps."""
    return FLOAT_BYTES * (weights + 1)


def reduced_bytes(weights: int, block: int, data: int) -> int:
    """What one all-reduce over the axis `data` is given in a step: gradients and loss of a block of members."""
    return FLOAT_BYTES * block * (weights + 1) if data > 1 else 0


def ring_bytes(reduced: int, data: int) -> float:
    """What each device sends in a ring all-reduce: 2 (D - 1) / D of the array.

    References:
        Patarasuk and Yuan, "Bandwidth Optimal All-reduce Algorithms for Clusters of Workstations", 2009.
    """
    return 2 * (data - 1) / data * reduced


class Plan(NamedTuple):
    """What is asked about."""

    network: ResNetConfig
    training: ensemble.TrainingConfig
    size: int  # rows, and columns, of the images
    images: int
    members: int
    accelerators: int
    sustained_tflops: float

    @property
    def block(self) -> int:
        """Members vmapped together."""
        return ensemble.block_size(self.members, self.training)

    @property
    def steps(self) -> int:
        """Of one member, in the whole run."""
        return self.training.epochs * ensemble.steps_per_epoch(self.training, self.images)


def mesh_row(plan: Plan, data: int) -> dict[str, int | float]:
    """What one device holds and does where each batch is shared by `data` devices.

    Raises:
        ConfigError: more devices along `data` than there are, or than divide the batch.
    """
    if data > plan.accelerators or plan.training.batch_size % data:
        raise ConfigError(
            f"a batch of {plan.training.batch_size} cannot be shared by {data} of {plan.accelerators} devices; "
            f"the number must divide the batch and be at most {plan.accelerators}"
        )
    weights = parameters(plan.network)
    member = meshes.largest_divisor(plan.members // plan.block, plan.accelerators // data)
    on_device = plan.members // member
    reduced = reduced_bytes(weights, plan.block, data)
    steps = plan.steps * on_device // plan.block  # of blocks, one after another
    state = on_device * (FLOAT_BYTES * weights + optimizer_bytes(weights))
    flops = step_flops(plan.network, plan.size, plan.training.batch_size) * plan.block / data
    hours = steps * flops / (plan.sustained_tflops * 1e12) / 3600
    return {
        "member": member,
        "data": data,
        "idle": plan.accelerators - member * data,
        "members_per_device": on_device,
        "parameter_bytes": on_device * FLOAT_BYTES * weights,
        "optimizer_bytes": on_device * optimizer_bytes(weights),
        "state_bytes": state,  # once: the epoch program writes members where it read them
        "gradient_bytes": FLOAT_BYTES * plan.block * weights,
        "activation_bytes": activation_bytes(plan.network, plan.size, plan.training.batch_size // data) * plan.block,
        "image_bytes": FLOAT_BYTES * plan.images * plan.size**2 * plan.network.channels,
        "steps_per_device": steps,
        "flops_per_step": flops,
        "collective_bytes_along_member": 0,
        "all_reduced_bytes": reduced,
        "sent_bytes_per_step": ring_bytes(reduced, data),
        "wall_hours": hours,
        "accelerator_hours": hours * member * data,
        "accelerator_hours_with_idle": hours * plan.accelerators,
    }
