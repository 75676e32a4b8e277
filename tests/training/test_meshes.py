import jax
import pytest

from jaxgeo.errors import ConfigError
from jaxgeo.training import meshes


def test_a_mesh_has_all_four_axes_in_order():
    mesh = meshes.make_mesh()
    assert dict(mesh.shape) == {"member": 1, "chain": 1, "data": 1, "model": 1}
    assert mesh.devices.size == 1


def test_too_many_devices_are_refused_with_the_variable_that_would_help():
    with pytest.raises(ConfigError, match=r"needs 4 devices but there are 1; JAX_NUM_CPU_DEVICES=4 in the environment"):
        meshes.make_mesh(member=2, chain=2, devices=jax.devices()[:1])


def test_an_axis_of_size_zero_is_refused():
    with pytest.raises(ConfigError, match=r"at least 1.*'chain': 0"):
        meshes.make_mesh(chain=0)


@pytest.mark.parametrize(("count", "size"), [(1, 1), (6, 6), (7, 7), (9, 3), (11, 1), (16, 8)])
def test_work_is_shared_by_the_largest_number_of_devices_that_divides_it(count, size):
    assert meshes.largest_divisor(count, 8) == size


def test_work_on_one_device_gets_a_mesh_of_one_device():
    assert dict(meshes.spread("chain", 5, jax.devices()[:1]).shape)["chain"] == 1


@pytest.mark.parametrize(("axis", "count", "message"), [("rows", 3, "got 'rows'"), ("member", 0, "at least one piece")])
def test_spreading_over_nothing_is_refused(axis, count, message):
    with pytest.raises(ConfigError, match=message):
        meshes.spread(axis, count)
