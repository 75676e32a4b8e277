"""A foreign pickle runs nothing, whatever it says, and damage is one error."""

import copyreg
import io
import pickle
import struct
import sys
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_writer import legacy_file, pickled, whole, zip_file, zipped

from jaxgeo import torch_files, torch_pickle
from jaxgeo.errors import CorruptFileError
from jaxgeo.torch_files import read_state_dict, write_state_dict

WEIGHTS = {"weight": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.array([1.5, -2.0])}
STATE = {name: whole(array) for name, array in WEIGHTS.items()}


def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


PROGRAM, STORED = pickled(STATE)
PUSH_STATE = PROGRAM[2:-1]  # without the protocol and the end
FLOATS = (b"ctorch\nFloatStorage\n", text("0"), text("cpu"))


def push_tensor(kind=FLOATS[0], layout=b"K\0K\2K\3\x86K\3K\1\x86", hooks=b"N"):
    """Opcodes of the tensor `weight` with some of its parts replaced."""
    identity = b"(" + text("storage") + kind + FLOATS[1] + FLOATS[2] + b"K\6tQ"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + identity + layout + b"\x89" + hooks + b"tR"


def program(*parts):
    return b"\x80\x02" + b"".join(parts) + b"."


def beside(push):
    """A checkpoint with a state dict and one more entry."""
    return program(b"}(", text("state_dict"), PUSH_STATE, text("more"), push, b"u")


def read_program(folder, content):
    path = folder / "weights.pt"
    path.write_bytes(zipped(content, STORED))
    return read_state_dict(path)


def assert_weights(found, names=("weight", "bias")):
    assert sorted(found) == sorted(names)
    for name in names:
        np.testing.assert_array_equal(found[name], WEIGHTS[name], strict=True)


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A module `trap` that leaves a mark when it is imported, known to pickle's extension registry too."""
    marker = tmp_path / "marker"
    (tmp_path / "trap.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Trap:\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    copyreg.add_extension("trap", "Trap", 0xF0)
    yield marker
    copyreg.remove_extension("trap", "Trap", 0xF0)
    sys.modules.pop("trap", None)


def harmful(marker):
    """Opcodes that push one value and, unpickled, leave the mark; as the protocols of each age say it."""
    shell, touch = text(f"touch {marker}"), text(f"__import__('pathlib').Path({str(marker)!r}).touch()")
    return {
        "system": b"cposix\nsystem\n" + shell + b"\x85R",
        "eval": b"cbuiltins\neval\n" + touch + b"\x85R",
        "eval by its old name": b"c__builtin__\neval\n" + touch + b"\x85R",
        "instance": b"(" + shell + b"iposix\nsystem\n",
        "object": b"(cposix\nsystem\n" + shell + b"o",
        "new": b"ctrap\nTrap\n)\x81",
        "new with keywords": b"ctrap\nTrap\n)}\x92",
        "stack": text("trap") + text("Trap") + b"\x93",
        "stack by memo": text("builtins") + b"r\xf0\0\0\0000" + text("eval") + b"r\xf1\0\0\0000"
        b"j\xf0\0\0\0j\xf1\0\0\0\x93" + touch + b"\x85R",
        "attribute of an attribute": text("os") + text("path.os.system") + b"\x93" + shell + b"\x85R",
        "extension": b"\x82\xf0",
        "long extension": b"\x84\xf0\0\0\0",
        "state": b"ctrap\nTrap\n)\x81}" + text("a") + b"K\1sb",
        "items": b"ccollections\nOrderedDict\n)R" + text("a") + b"ctrap\nTrap\ns",
        "nested": b"cfunctools\npartial\ncposix\nsystem\n" + shell + b"\x86R)R",
    }


KINDS = list(harmful(""))
PLACES = {
    "the top object": (program, None),
    "beside the state dict": (beside, WEIGHTS),
    "a key": (lambda push: beside(b"}" + push + b"K\1s"), WEIGHTS),
    "an entry": (lambda push: program(PUSH_STATE, text("more"), push, b"s"), None),
    "thrown away": (lambda push: program(push, b"0", PUSH_STATE), WEIGHTS),
    "attributes of the state dict": (lambda push: program(PUSH_STATE, push, b"b"), WEIGHTS),
    "hooks of a tensor": (lambda push: program(b"}", text("weight"), push_tensor(hooks=push), b"s"), ["weight"]),
    "a storage's type": (lambda push: program(b"}", text("weight"), push_tensor(kind=push), b"s"), None),
    "a size": (lambda push: program(b"}", text("weight"), push_tensor(layout=b"K\0" + push + b"K\1\x85"), b"s"), None),
    "a persistent id": (lambda push: beside(push + b"Q"), WEIGHTS),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_of_these_pickles_does_harm_when_it_is_unpickled(trap, kind):
    # Shows that the test below can fail. Pickle knows old names up to protocol 3, and dotted ones from 4.
    push = harmful(trap)[kind]
    pickle.loads(b"\x80" + (b"\x04" if b"\x93" in push else b"\x02") + push + b".")
    assert trap.exists()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_in_a_file_is_run_or_imported(trap, kind, place):
    build, expected = PLACES[place]
    content = build(harmful(trap)[kind])
    if expected is None:
        with pytest.raises(CorruptFileError, match=r"weights\.pt"):
            read_program(trap.parent, content)
    else:
        assert_weights(read_program(trap.parent, content), expected)
    assert not trap.exists()
    assert "trap" not in sys.modules


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", range(5))
def test_no_pickle_of_the_older_format_is_run_either(trap, kind, number):
    path, parts = trap.parent / "weights.pt", []
    stream = io.BytesIO(legacy_file(STATE))
    for part in range(5):
        start = stream.tell()
        torch_pickle.interpret(stream, {})
        parts.append(stream.getvalue()[start : stream.tell()])
        if part == number:
            push = harmful(trap)[kind]
            parts[-1] = beside(push) if part == 3 else program(push)
    # Place 2 holds facts about the machine, which are not asked for.
    path.write_bytes(b"".join(parts) + stream.read())
    if number in (2, 3):
        assert_weights(read_state_dict(path))
    else:
        with pytest.raises(CorruptFileError, match=r"weights\.pt"):
            read_state_dict(path)
    assert not trap.exists()
    assert "trap" not in sys.modules


def test_no_attribute_of_a_loaded_module_is_looked_up(tmp_path, monkeypatch):
    asked = []

    class Spy(types.ModuleType):
        def __getattr__(self, name):
            asked.append(name)
            raise AttributeError(name)

    monkeypatch.setitem(sys.modules, "spy", Spy("spy"))
    assert_weights(read_program(tmp_path, beside(b"cspy\nweapon\n)R" + text("spy") + text("weapon") + b"\x93\x86")))
    assert "weapon" not in asked


HARMLESS = {
    "a deep tuple as a key": b"}N" + b"\x85" * 5_000 + b"Ns",
    "deep lists": b"]" * 5_000 + b"a" * 4_999,
    "a list within itself": b"]q\xffh\xffa",
    "a far memo": b"Nr\xff\xff\xff\xff",
    "many references": b"]q\xfe" + b"0](" + b"h\xfe" * 10 + b"eq\xfe" + b"0](h\xfeh\xfeeq\xfe" * 60,
    "a frame longer than the file": b"\x95" + struct.pack("<Q", 2**60) + b"N",
    "a list and a dict of protocol 0": b"(NNl0(" + text("a") + b"Nd",
    "a group taken back": b"(0N",
    "a class with its source": b"(" + text("module") + b"cnet\nNet\n" + text("net.py") + text("class Net: ...") + b"tQ",
}


@pytest.mark.parametrize("push", HARMLESS.values(), ids=HARMLESS)
def test_what_exhausts_a_walker_and_what_is_rare_are_passed_over(tmp_path, push):
    assert_weights(read_program(tmp_path, beside(push)))


DAMAGED = {
    "a text of 2**62 bytes": (b"\x8d" + struct.pack("<Q", 2**62), "expected 4611686018427387904 bytes"),
    "bytes of negative length": (b"T" + struct.pack("<i", -1), "byte count < 0"),
    "a name doubled by reference": (text("a" * 600) + b"q\xffh\xff\x93", "over 1000 letters long"),
    "a name that is no text": (b"K\1K\2\x93", "whose name is no text"),
    "an unknown memo": (b"h\xfe", "no memo 254"),
    "a value too many": (b"RRRRR", "takes a value where none was put"),
    "a group not begun": (b"ttttt", "ends a group that was not begun"),
    "half a pair": (b"}(NNNu", "zip"),
    "items of a number": (b"K\1Na", "puts items into a int"),
    "a buffer of elsewhere": (b"\x97", "opcode NEXT_BUFFER"),
    "an unknown opcode": (b"\xff", "opcode"),
    "a bad escape": (b"S'\\z'\n", "escape"),
}


@pytest.mark.parametrize(("push", "message"), DAMAGED.values(), ids=DAMAGED)
def test_what_no_pickler_writes_is_one_error(tmp_path, push, message):
    with pytest.raises(
        CorruptFileError, match=rf"weights\.pt is not a whole .*{message}.*: it was truncated or altered"
    ):
        read_program(tmp_path, beside(push))


def test_opcodes_and_stack_are_limited(tmp_path, monkeypatch):
    assert_weights(read_program(tmp_path, beside(b"N" + b"N0" * 1000)))
    monkeypatch.setattr(torch_pickle, "MOST_OPCODES", 1000)
    with pytest.raises(CorruptFileError, match="over 1000 opcodes"):
        read_program(tmp_path, beside(b"N" + b"N0" * 1000))
    monkeypatch.setattr(torch_pickle, "DEEPEST_STACK", 100)
    with pytest.raises(CorruptFileError, match="or 100 values on its stack"):
        read_program(tmp_path, beside(b"(" * 60 + b"N" * 60 + b"t" * 60))


def test_one_dict_in_many_places_is_not_walked_in_each(tmp_path, monkeypatch):
    monkeypatch.setattr(torch_files, "MOST_OPCODES", 20)
    entries = b"".join(text(str(number)) + b"h\xff" for number in range(20))
    with pytest.raises(CorruptFileError, match="one dict stands in it many times"):
        read_program(tmp_path, program(b"}(NNu", b"q\xff0}(", entries, b"u", text("state_dict"), PUSH_STATE, b"s"))


def number(value):
    data = value.to_bytes(40, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def numbers(*values):
    return b"(" + b"".join(map(number, values)) + b"t"


@pytest.mark.parametrize(
    ("offset", "size", "stride", "message"),
    [
        (1, (2, 3), (3, 1), "outside storage '0'"),
        (0, (2, 3), (4, 1), "outside storage"),
        (6, (), (), "outside storage"),
        (5, (2,), (-1,), "outside storage"),
        (-1, (1,), (1,), "outside storage"),
        (0, (-1, 3), (3, 1), "outside storage"),
        (0, (2, 3), (1,), "outside storage"),
        (-1, (0,), (1,), "outside storage"),
        (0, (2**62, 2), (2**62, 1), "outside storage"),
        (0, (2**40, 2**40), (0, 0), "too big"),
        (0, (0, 2**62, 2**62), (1, 1, 1), "too big"),
        (0, (2**80,), (0,), "no dict of tensors"),
        (0, (1,) * 65, (1,) * 65, "no dict of tensors"),
    ],
)
def test_a_tensor_outside_its_storage_is_refused(tmp_path, offset, size, stride, message):
    layout = number(offset) + numbers(*size) + numbers(*stride)
    with pytest.raises(CorruptFileError, match=message):
        read_program(tmp_path, program(b"}", text("weight"), push_tensor(layout=layout), b"s"))


def test_an_expanded_tensor_takes_no_memory_of_its_own(tmp_path):
    layout = number(5) + numbers(2**20, 2**20) + numbers(0, 0)
    found = read_program(tmp_path, program(b"}", text("weight"), push_tensor(layout=layout), b"s"))["weight"]
    # 4 TB as a copy; the shape is for `match_state` to judge.
    assert found.shape == (2**20, 2**20)
    assert found.strides == (0, 0)
    assert found[12345, 67890] == 5.0


SOUP = [bytes([code]) for code in b"(t\x85\x86\x87])}ldaeus0102RbQo\x81\x92\x8f\x90\x91\x93\x94N\x88\x89"] + [
    b"h\0", b"q\0", b"K\1", b"J\xff\xff\xff\xff", text("0"), text("storage"), text("cpu"), text("torch"), b"\x82\1",
    b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch._utils\n_rebuild_parameter\n", b"ctorch\nFloatStorage\n",
    b"ccollections\nOrderedDict\n", b"ctorch._tensor\n_rebuild_from_type_v2\n", b"ctorch\nSize\n", b"iposix\nsystem\n",
    push_tensor(), b"(%s%s%s%sK\6tQ" % (text("storage"), *FLOATS), PUSH_STATE, b"Pid\n", b"I01\n", b"F1\n", b"2",
]  # fmt: skip


@settings(max_examples=120)
@given(parts=st.lists(st.sampled_from(SOUP), max_size=30))
def test_any_order_of_opcodes_gives_arrays_or_one_error(parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("soup")
    try:
        found = read_program(folder, program(*parts))
    except CorruptFileError as error:
        assert "weights.pt" in str(error)  # noqa: PT017  (whether it raises depends on the draw)
    else:
        assert all(isinstance(array, np.ndarray) for array in found.values())


@pytest.fixture(scope="module")
def whole_files(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "weights.safetensors"
    write_state_dict(path, WEIGHTS)
    big = zip_file({"state_dict": STATE, "epoch": 3}, order="big")
    return {"zip": big, "legacy": legacy_file(STATE), "safetensors": path.read_bytes()}


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
@settings(max_examples=80)
@given(data=st.data())
def test_flipped_bits_give_arrays_or_one_error(kind, data, whole_files, tmp_path_factory):
    path = tmp_path_factory.mktemp("flipped") / "weights.pt"
    content = bytearray(whole_files[kind])
    for bit in data.draw(st.lists(st.integers(0, 8 * len(content) - 1), min_size=1, max_size=3)):
        content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    try:
        found = read_state_dict(path)
    except CorruptFileError as error:
        assert "weights.pt" in str(error)  # noqa: PT017  (whether it raises depends on the draw)
    else:
        assert all(isinstance(array, np.ndarray) for array in found.values())


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_a_truncation_is_noticed(kind, whole_files, tmp_path):
    path = tmp_path / "weights.pt"
    for length in [*range(0, len(whole_files[kind]), 5), len(whole_files[kind]) - 1]:
        path.write_bytes(whole_files[kind][:length])
        with pytest.raises(CorruptFileError, match=r"weights\.pt"):
            read_state_dict(path)


@pytest.mark.parametrize("name", ["data.pkl", "data/0", "data/1"])
def test_a_change_under_a_checksum_is_noticed(name, whole_files, tmp_path):
    path = tmp_path / "weights.pt"
    start = whole_files["zip"].index(f"archive/{name}".encode()) + len(f"archive/{name}")
    for place in range(start, start + 8):
        content = bytearray(whole_files["zip"])
        content[place] ^= 0x10
        path.write_bytes(content)
        with pytest.raises(CorruptFileError, match=f"CRC-32 for file 'archive/{name}'"):
            read_state_dict(path)
