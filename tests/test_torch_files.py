"""State dicts of PyTorch are read as its documentation describes them; PyTorch itself is not needed."""

import argparse
import collections
import enum
import functools
import io
import json
import math
import pathlib
import pickle
import struct
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_writer import (
    BFLOAT16,
    REBUILD,
    STORAGES,
    Call,
    Stored,
    legacy_file,
    named,
    pickled,
    tensor,
    whole,
    zip_file,
    zipped,
)

from jaxgeo import files
from jaxgeo.errors import CorruptFileError, InputError, RunFolderError
from jaxgeo.torch_files import match_state, read_state_dict, write_state_dict


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """Reads bytes as a file whose name says nothing."""
    path = tmp_path_factory.mktemp("torch") / "weights.data"

    def reading(data, **options):
        path.write_bytes(data)
        return read_state_dict(path, **options)

    return reading


def assert_same(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


def random_elements(dtype, count, seed):
    bits = np.random.default_rng(seed).integers(0, 256, count * dtype.itemsize, np.uint8)
    return (bits % 2 if dtype == np.bool_ else bits).view(dtype)


WEIGHTS = {"weight": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.array([1.5, -2.0]), "steps": np.array(7)}
STATE = collections.OrderedDict((name, whole(array)) for name, array in WEIGHTS.items())
WRITERS = {"zip": zip_file, "legacy": legacy_file}


@settings(max_examples=60)
@given(data=st.data(), dtype=st.sampled_from(list(STORAGES)), seed=st.integers(0, 2**31 - 1))
def test_any_view_of_a_storage_is_read_bit_for_bit(read, data, dtype, seed):
    axes = data.draw(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5)), max_size=4))
    offset, spare = data.draw(st.integers(0, 5)), data.draw(st.integers(0, 3))
    size, stride = tuple(n for n, _ in axes), tuple(step for _, step in axes)
    last = offset + sum(max(n - 1, 0) * step for n, step in axes)
    elements = random_elements(dtype, last + 1 + spare, seed)
    view = np.lib.stride_tricks.as_strided(elements[offset:], size, [step * dtype.itemsize for step in stride])
    top = {"first": tensor(Stored(elements), size, stride, offset), "other": whole(elements)}
    protocol = data.draw(st.integers(2, 5))
    if data.draw(st.booleans()):
        content = legacy_file(top, protocol)
    else:
        order, folder = (
            data.draw(st.sampled_from(["little", "big"])),
            data.draw(st.sampled_from(["archive", "best.v2"])),
        )
        content = zip_file(top, protocol, order=order, folder=folder)
    assert_same(read(content), {"first": view, "other": elements})


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_tensors_that_share_a_storage_share_it_still(read, write):
    stored = Stored(np.arange(12.0))
    found = read(write({"a": tensor(stored, (3, 4), (4, 1)), "b": tensor(stored, (4, 3), (1, 4)), "c": STATE["bias"]}))
    np.testing.assert_array_equal(found["a"].T, found["b"])
    assert np.shares_memory(found["a"], found["b"])
    assert not np.shares_memory(found["a"], found["c"])
    assert not any(array.flags.writeable for array in found.values())


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_parameters_and_older_and_younger_forms_are_tensors_too(read, write):
    plain, hooks = STATE["weight"], collections.OrderedDict()
    stored = Stored(np.arange(6, dtype=np.float32))
    raw = Stored(np.array([1, 0, 2, 255], np.uint8), "UntypedStorage")
    form, parameter = named("torch._tensor", "_rebuild_from_type_v2"), named("torch.nn.parameter", "Parameter")
    layout = (stored, 0, (2, 3), (3, 1))
    top = {
        "first": Call(REBUILD("_rebuild_tensor"), *layout),
        "parameter": Call(REBUILD("_rebuild_parameter"), plain, True, hooks),
        "with state": Call(REBUILD("_rebuild_parameter_with_state"), plain, True, hooks, {"tag": [1]}),
        "with attributes": Call(form, REBUILD("_rebuild_tensor_v2"), parameter, (*layout, True, hooks), {"tag": [1]}),
        "sizes": tensor(stored, Call(named("torch", "Size"), (2, 3)), (3, 1)),
        "words": Call(REBUILD("_rebuild_tensor_v3"), raw, 0, (2,), (1,), False, hooks, named("torch", "uint16")),
    }
    expected = dict.fromkeys(top, WEIGHTS["weight"]) | {"words": np.array([1, 2 + 255 * 256], np.uint16)}
    assert_same(read(write(top)), expected)


def test_conjugate_and_negative_views_are_carried_out(read):
    values = np.array([1 + 2j, 3 - 1j], np.complex64)
    top = {
        "conjugate": tensor(Stored(values), (2,), (1,), 0, {"conj": True}),
        # The imaginary part of a conjugate: every other float32, with the sign put off.
        "imaginary": tensor(Stored(values.view(np.float32)), (2,), (2,), 1, {"conj": False, "neg": True}),
    }
    assert_same(read(zip_file(top)), {"conjugate": values.conj(), "imaginary": -values.imag})
    with pytest.raises(CorruptFileError, match="said to be conjugate or negative"):
        read(zip_file({"a": tensor(Stored(np.ones(2, bool)), (2,), (1,), 0, {"neg": True})}))


def test_a_view_of_a_storage_in_the_oldest_files_begins_where_it_says(read):
    stored = Stored(np.arange(10.0), view=("v", 4, 3))
    assert_same(read(legacy_file({"a": tensor(stored, (2,), (1,), 1)})), {"a": np.array([5.0, 6.0])})
    with pytest.raises(CorruptFileError, match="outside storage"):
        read(legacy_file({"a": tensor(stored, (3,), (1,), 1)}))


class Mode(enum.Enum):
    FAST = 1


def checkpoint():
    """A training checkpoint as Lightning writes it: everything that users keep in one, cycles included."""
    state = collections.OrderedDict((f"model.{name}", value) for name, value in STATE.items())
    state._metadata = collections.OrderedDict({"": {"version": 1}})
    settings_ = argparse.Namespace(rate=0.1, mode=Mode.FAST, path=pathlib.PurePosixPath("/data"), big=10**40, raw=b"x")
    settings_.itself = [settings_, {(1, 2): {3, 4}}, frozenset([5]), bytearray(b"y"), 1j, ...]
    return {
        "epoch": 3,
        "state_dict": state,
        "hyper_parameters": settings_,
        "callbacks": {"best": whole(np.array(0.3)), "score": np.float64(0.3), "order": np.arange(3)},
        "optimizer_states": [{"state": {0: {"step": whole(np.array(1.0))}}, "param_groups": [{"params": [0]}]}],
        "loops": collections.defaultdict(list, a=collections.deque([1])),
        "counter": collections.Counter("aab"),
        "partial": functools.partial(int, base=2),
        "dtype": [named("torch", "float32"), np.dtype("f4")],
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_a_training_checkpoint_is_read_past_all_that_is_no_tensor(read, write, protocol):
    content = write(checkpoint(), protocol)
    assert_same(read(content), {f"model.{name}": array for name, array in WEIGHTS.items()})
    assert_same(read(content, prefix="model."), WEIGHTS)
    assert_same(read(content, prefix="model.b"), {"ias": WEIGHTS["bias"]})


LOSS = whole(np.array(0.25))


@pytest.mark.parametrize(
    "top",
    [
        STATE,
        {"model": STATE, "epoch": 1},
        {"model": "resnet", "model_state_dict": STATE, "loss": LOSS},
        {"model": {"depth": 3}, "state_dict": STATE, "ema": {"weight": LOSS}},
        {"net": STATE, "optimizer": {"state": {0: {"step": LOSS}}}},
        Call(collections.OrderedDict, [list(item) for item in STATE.items()]),  # as Python 2 pickles it
    ],
)
def test_the_state_dict_is_found_by_the_documented_rule(read, top):
    assert_same(read(zip_file(top)), WEIGHTS)


@pytest.mark.parametrize(
    ("top", "message"),
    [
        ({"model": STATE, "state_dict": STATE}, "has 2 state dicts: 'state_dict', 'model'; save the one"),
        ({"one": STATE, "two": STATE, "epoch": 3}, "has 2 state dicts: 'one', 'two'; "),
        ({"net": STATE, "loss": LOSS}, "has 2 state dicts: 'net', the top object; "),
        (
            {"a": 1, "b": {"c": [LOSS]}, 5: LOSS},
            r"no dict of tensors among its entries 'a' \(int\), 'b' \(dict\), '<int>'",
        ),
        ([LOSS], "holds list where a state dict is needed; save it again"),
        (Call(named("torch.nn.modules.linear", "Linear"), state=STATE), "object of 'torch.nn.modules.linear.Linear'"),
        (
            STATE | {"extra": (1,), "scale": 2.0, "sparse": Call(REBUILD("_rebuild_sparse_tensor"), 1)},
            r"has 3 entries .* 'extra' \(tuple\), 'scale' \(float\), 'sparse' \(an object of 'torch._utils._rebuild_sp",
        ),
        ({"model": {"a": LOSS, "b": {"c": LOSS}}}, r"has 1 entries .* no plain tensors: 'b' \(dict\)"),
        (Call(collections.OrderedDict, [[1, 2, 3]]), "does not consist of pairs"),
    ],
)
@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_what_is_no_state_dict_or_several_is_one_sentence(read, write, top, message):
    with pytest.raises(CorruptFileError, match=rf"weights\.data .*{message}"):
        read(write(top))


def test_a_prefix_leaves_the_rest_out_and_lists_what_there_is(read):
    top = {"model.a": LOSS, "loss.b": LOSS, "model._extra_state": b"", "plain": LOSS}
    assert list(read(zip_file(top), prefix="loss.")) == ["b"]
    with pytest.raises(InputError, match=r"no tensor under 'net\.'; its 4 names begin with 'loss\.', 'model\.'$"):
        read(zip_file(top), prefix="net.")
    with pytest.raises(InputError, match="its 3 names have no prefix"):
        read(zip_file(STATE), prefix="net.")


def safetensors_file(header, body=b""):
    text = json.dumps(header).encode()
    text += b" " * (640 - len(text))
    return struct.pack("<Q", len(text)) + text + body


def test_safetensors_is_known_by_its_content_also_where_it_begins_as_a_pickle_does(read):
    entry = {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}
    content = safetensors_file({"a": entry}, np.array([1, -2], BFLOAT16).tobytes())
    assert content.startswith(b"\x80\x02")  # 640 in little endian, and the start of a pickle of protocol 2
    assert_same(read(content), {"a": np.array([1, -2], BFLOAT16)})
    with pytest.raises(CorruptFileError, match="dtype F8_E8M0, which NumPy lacks"):
        read(safetensors_file({"a": {"dtype": "F8_E8M0", "shape": [1], "data_offsets": [0, 1]}}, b"\0"))


@given(data=st.data(), seed=st.integers(0, 2**31 - 1))
def test_what_is_written_comes_back_bit_for_bit_and_other_readers_take_it(data, seed, tmp_path_factory):
    path = tmp_path_factory.mktemp("written") / "weights.safetensors"
    dtypes = [dtype for dtype in STORAGES if dtype != np.complex128]
    arrays = {}
    for number in range(data.draw(st.integers(0, 4))):
        dtype, shape = data.draw(st.sampled_from(dtypes)), tuple(data.draw(st.lists(st.integers(0, 3), max_size=3)))
        array = random_elements(dtype, math.prod(shape), seed + number).reshape(shape)
        arrays[f"layer.{number}.weight"] = array.T if data.draw(st.booleans()) else array
    assert write_state_dict(path, arrays) == files.file_sha256(path)
    assert_same(read_state_dict(path), arrays)
    with safetensors.safe_open(path, "np") as file:
        assert file.metadata() == {"format": "pt"}
        for name, array in arrays.items():
            if array.dtype != BFLOAT16:  # which that reader lacks
                assert file.get_tensor(name).tobytes() == array.tobytes()


def test_jax_arrays_and_foreign_byte_order_are_written_as_their_values(tmp_path):
    path = tmp_path / "weights.safetensors"
    write_state_dict(path, {"a": jnp.arange(3, dtype=jnp.bfloat16), "b": np.arange(3, dtype=">f4")})
    assert_same(read_state_dict(path), {"a": np.arange(3).astype(BFLOAT16), "b": np.arange(3, dtype=np.float32)})


def test_what_safetensors_lacks_is_refused_as_a_whole(tmp_path):
    arrays = {"z": np.zeros(2, np.complex128), "t": np.array(["x"]), "__metadata__": np.ones(1), "\ud800": np.ones(1)}
    with pytest.raises(
        InputError, match=r"4 of these arrays: 'z' \(complex128\), 't' \(<U1\), '__metadata__' \(float64"
    ):
        write_state_dict(tmp_path / "weights.safetensors", arrays | {"good": np.ones(1)})
    assert not list(tmp_path.iterdir())


def test_one_error_names_every_tensor_that_does_not_fit():
    found = {"a": np.zeros((2, 3)), "b": np.zeros(4), "c.num_batches_tracked": np.array(1), "d": np.zeros(())}
    match_state(found, {name: array.shape for name, array in found.items()})
    match_state(found, {"a": (2, 3), "b": (4,), "d": ()}, ignore=lambda name: name.endswith("tracked"))
    with pytest.raises(InputError) as caught:
        match_state(found, {"a": (3, 2), "b": (4,), "e": (1,), "f": ()}, ignore=lambda name: name == "d")
    for part in (
        "2 missing: 'e' (1,), 'f' ();",
        "1 unexpected: 'c.num_batches_tracked' ();",
        "1 of another shape: 'a' is (2, 3) and must be (3, 2);",
    ):
        assert part in str(caught.value)
    with pytest.raises(InputError, match=r"1234 missing: .*'w9' \(1,\) and 1224 more; a file") as caught:
        match_state({}, {f"w{number}": (1,) for number in range(1234)})
    assert len(str(caught.value)) < 500


def encrypted(content):
    """The bit that says so, set in every header, local (PK34) and central (PK12)."""
    content = bytearray(content)
    for mark, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        start = content.find(mark)
        while start >= 0:
            content[start + place] |= 1
            start = content.find(mark, start + 4)
    return bytes(content)


PROGRAM, STORED = pickled(STATE)
FOREIGN = {
    "empty": (b"", "is empty, as neither"),
    "text": (b"weights = 3\n" * 9, "begins with b'weights ', as neither"),
    "tar": (b"\0" * 257 + b"ustar\0" + b"\0" * 300, "is a tar archive"),
    "pickle": (pickle.dumps({"a": 1}, 2), "is a pickle, but not one of torch.save"),
    "protocol": (legacy_file(STATE, version=1002), "its protocol is not 1001"),
    "longer": (legacy_file(STATE) + b"\0", "bytes are left"),
    "no program": (zipped(b"", {})[:22] + b"PK", "not a zip file"),
    "another zip": (
        zipped(PROGRAM, {}, folder="a/b"),
        "zip archive with 0 members <folder>/data.pkl .* 'a/b/data.pkl'",
    ),
    "TorchScript": (zip_file(STATE, **{"constants.pkl": b""}), r"is a TorchScript archive.*torch\.jit\.load"),
    "encrypted": (encrypted(zip_file(STATE)), "is encrypted; decrypt it"),
    "compressed": (zip_file(STATE, compression=zipfile.ZIP_DEFLATED), "is compressed, which torch.save never does"),
    "version": (zip_file(STATE, version="99\n"), "its version '99'; known are"),
    "byte order": (zipped(PROGRAM, {}, byteorder="middle"), "its byte order is 'middle'"),
    "no storage": (zipped(PROGRAM, {}), "no record archive/data/0"),
    "short storage": (zipped(PROGRAM, STORED | {"0": Stored(np.ones(5, "f4"))}), "has 20 bytes and not 6 elements"),
    "long storage": (zipped(PROGRAM, STORED | {"0": Stored(np.ones(7, "f4"))}), "has 28 bytes and not 6 elements"),
}


@pytest.mark.parametrize(("content", "message"), FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_or_damaged_file_is_one_sentence(read, content, message):
    with pytest.raises(CorruptFileError, match=rf"^\S*weights\.data .*{message}"):
        read(content)


def test_a_missing_file_is_said_so(tmp_path):
    with pytest.raises(RunFolderError, match="cannot be read"):
        read_state_dict(tmp_path / "nothing.pt")


def test_checksums_that_pytorch_was_told_to_leave_out_are_not_asked_for(read):
    content = zip_file(STATE)
    for info in zipfile.ZipFile(io.BytesIO(content)).infolist():
        content = content.replace(struct.pack("<I", info.CRC), bytes(4))
    assert_same(read(content), WEIGHTS)
