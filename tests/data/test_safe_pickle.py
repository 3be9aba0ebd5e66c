"""load_arrays: what numpy wrote comes back as it was, Python 2's included; of a forged or damaged pickle nothing runs.

Forged pickles and those of Python 2 are put together opcode by opcode. What could crash, hang or eat the memory is
loaded in a process of its own.
"""

import functools
import inspect
import io
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import tracemalloc
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from src.data import stand_ins
from src.data.safe_pickle import RefusedPickle, load_arrays, release_pages

every_protocol = pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))


def load(stream):
    return load_arrays(io.BytesIO(stream))


LOAD_EACH = """
import json, pickle, resource, sys, tempfile
from src.data.safe_pickle import load_arrays

resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))  # bytes
outcomes = []
for stream in pickle.load(sys.stdin.buffer):
    try:
        with tempfile.TemporaryFile() as file:
            file.write(stream)
            file.seek(0)
            load_arrays(file)
        outcomes.append("loaded")
    except Exception as error:
        outcomes.append(type(error).__name__)
print(json.dumps(outcomes))
"""


def load_apart(streams):
    """What comes of loading each of the streams, from a file, in another process: "loaded" or the exception's name."""
    child = subprocess.run(
        [sys.executable, "-c", LOAD_EACH], input=pickle.dumps(streams), capture_output=True, timeout=120, check=False,
        cwd=Path(__file__).parents[2], env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},
    )
    assert child.returncode == 0, child.stderr.decode()
    return json.loads(child.stdout)


@dataclass(frozen=True)
class Name:
    """Something that a pickle names."""

    module: str
    name: str


@dataclass(frozen=True)
class Call:
    """A call of it, and the state that the result is given."""

    callee: object
    args: tuple = ()
    state: object = None


def assemble(value):
    """A pickle of protocol 2 of plain values, Names and Calls. A str is a unicode; bytes are a str of Python 2."""
    return b"\x80\x02" + opcodes(value) + b"."


def opcodes(value):  # noqa: PLR0911
    match value:
        case None | True | False:
            return {None: b"N", True: b"\x88", False: b"\x89"}[value]
        case int():
            return b"J" + struct.pack("<i", value)
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        case bytes():
            return b"T" + struct.pack("<I", len(value)) + value
        case tuple():
            return b"(" + b"".join(map(opcodes, value)) + b"t"
        case list():
            return b"](" + b"".join(map(opcodes, value)) + b"e"
        case dict():
            return b"}(" + b"".join(opcodes(part) for item in value.items() for part in item) + b"u"
        case Name(module, name):
            return f"c{module}\n{name}\n".encode()
        case Call(callee, args, state):
            return opcodes(callee) + opcodes(args) + b"R" + (b"" if state is None else opcodes(state) + b"b")
        case _:
            raise TypeError(value)


def forged_dtype(code, byteorder="|", subarray=None, names=None, fields=None):
    return Call(Name("numpy", "dtype"), (code, 0, 1), (3, byteorder, subarray, names, fields, -1, -1, 0))


def forged_array(dtype, shape, content, fortran=False, core="numpy.core"):
    """An array as numpy writes it, of a forged dtype or of contents that do not belong to it."""
    empty = (Name("numpy", "ndarray"), (0,), b"b")
    return Call(Name(f"{core}.multiarray", "_reconstruct"), empty, (1, shape, dtype, fortran, content))


F8, O8, NDARRAY = forged_dtype("f8", "<"), forged_dtype("O8"), Name("numpy", "ndarray")
POINTER = b"\x01" * 8


def of_python_2(value):
    """The value in the terms of `opcodes`, as numpy under Python 2 pickles it: its str are bytes."""
    if isinstance(value, dict):
        return {of_python_2(key): of_python_2(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(of_python_2, value))
    if not isinstance(value, (np.ndarray, np.generic)):
        return value.encode("latin1") if isinstance(value, str) else value
    dtype = forged_dtype(value.dtype.str[1:].encode(), value.dtype.str[:1].encode())
    if isinstance(value, np.generic):
        return Call(Name("numpy.core.multiarray", "scalar"), (dtype, value.tobytes()))
    if value.dtype == object:
        return forged_array(dtype, value.shape, of_python_2(value.ravel().tolist()), value.flags.fnc)
    return forged_array(dtype, value.shape, value.tobytes(order="A"), value.flags.fnc)


def assert_same(ours, original):
    """Equal in type, byte order, shape and value, at every depth."""
    assert type(ours) is type(original)
    if isinstance(original, np.ndarray):
        assert (ours.dtype, ours.shape) == (original.dtype, original.shape)
        if original.dtype != object:
            np.testing.assert_array_equal(ours, original)
            return
        ours, original = ours.ravel().tolist(), original.ravel().tolist()
    if isinstance(original, dict):
        assert_same(list(ours.items()), list(original.items()))
    elif isinstance(original, (list, tuple)):
        assert len(ours) == len(original)
        for our_item, item in zip(ours, original, strict=True):
            assert_same(our_item, item)
    else:
        assert ours == original


def objects(items, shape=None):
    """An array of objects, whatever they are."""
    array = np.empty(len(items), dtype=object)
    for i, item in enumerate(items):
        array[i] = item
    return array.reshape(shape or len(items))


NUMBERS = np.random.RandomState(0).normal(scale=100, size=(4, 3, 2))
PLAIN = {
    "float32": NUMBERS.astype(np.float32),
    "float64": NUMBERS,
    "non-finite": np.array([np.nan, np.inf, -np.inf, -0.0]),
    "int": NUMBERS.astype(np.int64),
    "uint8": NUMBERS.astype(np.uint8),
    "bool": NUMBERS > 0,
    "big-endian": NUMBERS.astype(">f4"),
    "big-endian int": NUMBERS.astype(">i8"),
    "Fortran order": np.asfortranarray(NUMBERS),
    "strided": NUMBERS[::2, :, ::-1],
    "no dimensions": np.array(1.5),
    "one element": NUMBERS[:1, :1, :1],
    "bytes": np.array([[b"03bSnISJMiM", b"0.5"], [b"\xe9\xff", b""]]),
    "bytes in Fortran order": np.asfortranarray([[b"a", b"b", b"c"], [b"d", b"e", b"f"]]),
    "float32 scalar": np.float32(0.1),
    "int scalar": np.int64(-7),
    "bool scalar": np.bool_(True),
    "plain": {"list": [1, -2, 2.5, None, True], "tuple": ("text", "caf\xe9", ()), "nested": {"": [[], [{}]]}},
}
TODAY = {
    "str": np.array([["03bSnISJMiM", "caf\xe9"], ["\u4f60\u597d", ""]]),
    "big-endian str": np.array(["ab", "c"], dtype=">U2"),
    "str scalar": np.str_("caf\xe9"),
    "empty str scalar": np.str_(""),
    "bytes scalar": np.bytes_(b"\xe9\xff"),
    "objects str": objects(["a", "caf\xe9", "\u4f60"]),
    "objects bytes": objects([b"a", b"\xe9", b""]),
    "objects in Fortran order": np.asfortranarray(objects(list("abcdef"), (2, 3))),
    "objects of equal lists": objects([["a", "b"], ["c", "d"]]),
    "objects one list": objects([[7]]),
    "objects arrays": objects([NUMBERS[0], NUMBERS[1], np.zeros(2)]),
    "objects one array": objects([np.ones(3)]),
    "plain bytes": [b"\xe9\xff", b"", "\u4f60"],
    "arrays in containers": [(NUMBERS, [np.float32(1)]), {("key", 1): {"deep": (np.arange(3),)}}],
}
EMPTY = {
    "empty float32": np.zeros((0, 5), dtype=np.float32),
    "empty int": np.zeros((3, 0, 2), dtype=np.int64),
    "empty bytes": np.zeros(0, dtype="S4"),
}
VALUES = PLAIN | TODAY | EMPTY


@every_protocol
@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
def test_round_trip(value, protocol):
    shared = {"train": {"x": value}, "again": value}
    assert_same(load(pickle.dumps(shared, protocol)), shared)


PYTHON_2 = PLAIN | EMPTY | {
    "objects": np.asfortranarray(objects(["a", "caf\xe9", 3, "b", "c", "d"], (2, 3))),
    "unicode": TODAY["str"], "unicode scalar": TODAY["str scalar"],
}


@pytest.mark.parametrize("value", PYTHON_2.values(), ids=PYTHON_2)
def test_python_2(value):
    assert_same(load(assemble(of_python_2({"train": {"x": value}}))), {"train": {"x": value}})


@pytest.mark.parametrize("core", ["numpy.core", "numpy._core"])
def test_before_and_since_numpy_2(core):
    dtype, content = forged_dtype("f8", "<"), NUMBERS.tobytes().decode("latin1")
    raw = Call(Name("_codecs", "encode"), (content, "latin1"))
    stream = assemble([
        forged_array(dtype, NUMBERS.shape, raw, core=core),
        Call(Name(f"{core}.numeric", "_frombuffer"), (raw, dtype, NUMBERS.shape, "C")),
        Call(Name(f"{core}.multiarray", "scalar"), (dtype, Call(Name("_codecs", "encode"), (content[:8], "latin1")))),
    ])
    assert_same(load(stream), [NUMBERS, NUMBERS, NUMBERS[0, 0, 0]])


AXES = [(0, 2, 1), (1, 2, 0), (2, 0, 1), (1, 0, 2), (2, 1, 0)]


@every_protocol
@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("steps", [slice(None), slice(1, 3), slice(None, None, 2)])
def test_permuted_arrays(axes, steps, protocol):
    """As a transposed array comes out of its own numpy, parts of it included."""
    value = NUMBERS.transpose(axes)[steps]
    assert_same(load(pickle.dumps({"x": value}, protocol)), {"x": value})


@pytest.mark.parametrize("axes", AXES)
def test_permuted_arrays_of_numpy_2_3(axes):
    """Put together by hand, whatever numpy is installed: the shape is that of the buffer, before it is transposed."""
    buffer = Call(Name("_codecs", "encode"), (NUMBERS.tobytes().decode("latin1"), "latin1"))
    call = Call(Name("numpy._core.numeric", "_frombuffer"), (buffer, forged_dtype("f8", "<"), NUMBERS.shape, "K", axes))
    assert_same(load(assemble([call])), [NUMBERS.transpose(axes)])


def test_long_permuted_arrays_are_views_of_the_file(tmp_path):
    value = np.arange(300_000.0).reshape(100, 50, 60).transpose(0, 2, 1)[:90]
    (tmp_path / "file.pkl").write_bytes(pickle.dumps(value, 5))
    with (tmp_path / "file.pkl").open("rb") as file:
        ours = load_arrays(file)
    assert_same(ours, value)
    assert not ours.flags.owndata
    release_pages(ours)
    assert_same(ours, value)


@pytest.mark.parametrize("order, axes", [("K", (0, 1, 1)), ("K", (0, 1)), ("K", "210"), ("K", None), ("Z", (0, 1, 2)),
                                         ("K", (0, 1, 7)), ("K", 5)])
def test_axes_that_are_none(order, axes):
    buffer = Call(Name("_codecs", "encode"), (NUMBERS.tobytes().decode("latin1"), "latin1"))
    with pytest.raises(pickle.UnpicklingError):
        load(assemble(Call(Name("numpy._core.numeric", "_frombuffer"), (buffer, F8, NUMBERS.shape, order, axes))))


def reductions(value):
    """The (function, arguments) and the states by which numpy pickles a value, in every protocol, at every depth."""
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        function, arguments, *state = value.__reduce_ex__(protocol)[:3]
        yield function, arguments, state[0] if state else None
        for argument in arguments:
            if isinstance(argument, np.dtype):
                yield from reductions(argument)


def test_numpy_calls_what_we_stand_in_for():
    """Each function that the installed numpy writes has a stand-in, which takes as many arguments; a new name, argument
    or field of a state is noticed here.
    """
    frombuffer = inspect.signature(np._core.numeric._frombuffer).parameters
    ours = inspect.signature(stand_ins.build_array_from_buffer).parameters
    assert len(frombuffer) <= len(ours)
    values = [NUMBERS, NUMBERS.transpose(1, 2, 0), np.asfortranarray(NUMBERS), NUMBERS[::2], NUMBERS[0, 0, 0],
              objects(["a", 1]), np.array(["ab"]), np.str_("a"), np.bool_(True), NUMBERS.astype(">f4")]
    for function, arguments, state in (reduction for value in values for reduction in reductions(value)):
        module, name = function.__module__, function.__name__
        if name in ("_reconstruct", "scalar"):
            module = "numpy._core.multiarray"
        builder = stand_ins.BUILDERS[module, name]
        inspect.signature(builder).bind(*arguments)
        assert state is None or len(state) == (8 if name == "dtype" else 5), (name, state)


CONTAINERS = {
    "OrderedDict": OrderedDict([("train", OrderedDict(text=NUMBERS)), (3, [OrderedDict()])]),
    "defaultdict": defaultdict(list, {"train": defaultdict(dict, text=NUMBERS), 3: defaultdict(None)}),
    "both": {"train": defaultdict(int, a=OrderedDict(b=[1]))},
}


@every_protocol
@pytest.mark.parametrize("value", CONTAINERS.values(), ids=CONTAINERS)
def test_ordered_and_default_dicts_are_dicts(value, protocol):
    def plain(value):
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return list(map(plain, value)) if isinstance(value, list) else value
    assert_same(load(pickle.dumps(value, protocol)), plain(value))


def test_ordered_dicts_of_python_2():
    pairs = Call(Name("collections", "OrderedDict"), ([["train", 1], ["test", [2]]],), {"hint": 1})
    assert_same(load(assemble(pairs)), {"train": 1, "test": [2]})


@pytest.mark.parametrize("attack", [
    Call(Name("builtins", "list"), (["x"],)), Call(Name("__builtin__", "dict")), Name("builtins", "list"),
    Call(Name("collections", "defaultdict"), (Call(Name("builtins", "eval"), ("1",)),)),
    {"x": Call(Name("collections", "OrderedDict"), ([[Name("os", "system"), 1]],))},
])
def test_dicts_open_no_door(attack):
    with pytest.raises(RefusedPickle):
        load(assemble(attack))


def test_what_follows_the_pickle_is_left_alone():
    file = io.BytesIO(pickle.dumps([1]) + pickle.dumps([2]))
    assert load_arrays(file) == [1]


def large_pickle(path, content_size, claimed_size=None):
    """A file of an array of float64, whose contents are a hole in the file: it takes no room on the disk."""
    before, after = assemble({"x": forged_array(F8, (content_size // 8,), "CONTENT")}).split(opcodes("CONTENT"))
    with path.open("wb") as file:
        file.write(before + b"\x8e" + struct.pack("<Q", claimed_size or content_size))
        file.seek(content_size, os.SEEK_CUR)
        file.write(after)
    return path


def test_a_large_array_is_not_read(tmp_path):
    path = large_pickle(tmp_path / "large.pkl", 1 << 32)
    tracemalloc.start()
    with path.open("rb") as file:
        array = load_arrays(file)["x"]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert array.nbytes == 1 << 32
    assert peak < 1 << 20
    assert array[-1] == 0
    release_pages(array)
    assert array[12345] == 0


def test_a_size_that_the_file_does_not_have_is_not_believed(tmp_path):
    path = large_pickle(tmp_path / "cut.pkl", 1 << 20, claimed_size=1 << 40)
    with path.open("rb") as file, pytest.raises(pickle.UnpicklingError, match="ends early"):
        load_arrays(file)


LONG_CONTENTS = np.random.RandomState(1).normal(size=(3, 100, 100))
LONG_VALUES = {
    "float64": LONG_CONTENTS, "big-endian": LONG_CONTENTS.astype(">f4"), "Fortran": np.asfortranarray(LONG_CONTENTS),
    "bytes": b"\xe9" * 100_000, "str": "\u4f60" * 100_000,
    "of bytes": np.array([b"a" * 80_000, b"b"]), "many": np.array(["abc"] * 40_000),
    "scalar": np.bytes_(b"a" * 80_000), "list": ["a", "b" * 80_000, ["c" * 80_000] * 2], "key": {"a" * 80_000: 1},
}


@every_protocol
@pytest.mark.parametrize("value", LONG_VALUES.values(), ids=LONG_VALUES)
def test_long_contents(value, protocol, tmp_path):
    """What is left in the file at first, in each of the places where it may stand."""
    (tmp_path / "file.pkl").write_bytes(pickle.dumps({"x": value, "y": [value]}, protocol))
    with (tmp_path / "file.pkl").open("rb") as file:
        assert_same(load_arrays(file), {"x": value, "y": [value]})


def test_long_contents_of_python_2(tmp_path):
    value = {"x": LONG_CONTENTS, "y": "caf\xe9" * 20_000, "z": np.array(["ab"] * 40_000, dtype="S")}
    (tmp_path / "file.pkl").write_bytes(assemble(of_python_2(value)))
    with (tmp_path / "file.pkl").open("rb") as file:
        assert_same(load_arrays(file), value)


def assemble_attack(*parts):
    """A pickle of opcodes and of values."""
    return b"\x80\x02" + b"".join(x if isinstance(x, bytes) else opcodes(x) for x in parts) + b"."


def touching(path):
    """Streams that make a file at this path when pickle itself loads them, by the name that they must not get at."""
    code, shell = f"open({path!r}, 'w').close()", f": > {path!r}"
    memmap, arguments = Name("numpy", "memmap"), (path, "u1", "w+", 0, (1,))
    bound = Call(Name("builtins", "getattr"), (Call(Name("pathlib", "Path"), (path,)), "touch"))
    return {
        "os.system": assemble(Call(Name("os", "system"), (shell,))),
        "posix.system": assemble({"train": {"text": [(Call(Name("posix", "system"), (shell,)),)]}}),
        "subprocess.getoutput": assemble(Call(Name("subprocess", "getoutput"), (shell,))),
        "builtins.eval": assemble(Call(Name("builtins", "eval"), (code,))),
        "builtins.exec": assemble([F8, forged_array(F8, (1,), POINTER), Call(Name("builtins", "exec"), (code,))]),
        "__builtin__.eval": assemble(Call(Name("__builtin__", "eval"), (code,))),
        "builtins.open": assemble(Call(Name("builtins", "open"), (path, "w"))),
        "builtins.getattr": assemble(Call(bound)),
        "numpy.savetxt": assemble(Call(Name("numpy", "savetxt"), (path, [1]))),
        "numpy.memmap": assemble(Call(memmap, arguments)),
        "numpy.memmap by OBJ": assemble_attack(b"(", memmap, *arguments, b"o"),
        "numpy.memmap by INST": assemble_attack(b"(", *arguments, b"inumpy\nmemmap\n"),
        "numpy.memmap by NEWOBJ": assemble_attack(memmap, arguments, b"\x81"),
        "numpy.memmap by NEWOBJ_EX": assemble_attack(memmap, arguments, {}, b"\x92"),
    }


def assert_refused_and_not_run(stream, name, marker):
    """The stream is refused by name and makes no marker, which it does when pickle itself loads it."""
    with pytest.raises(RefusedPickle) as refusal:
        load(stream)
    assert name in str(refusal.value)
    assert not marker.exists()
    pickle.loads(stream)
    assert marker.exists()


@pytest.mark.parametrize("attack", touching(""))
def test_nothing_runs(attack, tmp_path):
    marker = tmp_path / "marker"
    assert_refused_and_not_run(touching(str(marker))[attack], attack.split(" by ")[0], marker)


class Touching:
    """An object that makes a file as it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@every_protocol
def test_no_object_reduces(protocol, tmp_path):
    marker = tmp_path / "marker"
    forged = {"train": {"text": NUMBERS, "id": objects(["a", Touching(marker)])}}
    name = "pathlib.Path.touch" if protocol >= 4 else "getattr"
    assert_refused_and_not_run(pickle.dumps(forged, protocol), name, marker)


@pytest.mark.parametrize("module, name", [
    ("numpy", "load"), ("numpy", "frombuffer"), ("numpy", "fromfile"), ("numpy", "matrix"), ("numpy", "scalar"),
    ("numpy", "ndarray.tofile"), ("numpy", "dtype.__init__"), ("numpy", "ndarray.__reduce__.__self__"),
    ("numpy.core.multiarray", "frombuffer"), ("numpy._core.multiarray", "fromfile"), ("numpy._core.numeric", "load"),
    ("numpy.core.multiarray", "_reconstruct.__globals__"), ("_codecs", "decode"), ("codecs", "encode"),
    ("collections", "Counter"), ("collections", "deque"), ("copyreg", "_reconstructor"), ("builtins", "set"),
    ("torch._utils", "_rebuild_tensor_v2"), ("src.data.safe_pickle", "PickledArray"),
])
def test_other_names_are_refused(module, name):
    by_text, by_stack = opcodes(Name(module, name)), opcodes(module) + opcodes(name) + b"\x93"
    for callee in (by_text, by_stack):
        with pytest.raises(RefusedPickle) as refusal:
            load(assemble_attack(callee, (), b"R"))
        assert f"{module}.{name}" in str(refusal.value)


def test_refusal_is_one_printable_line():
    with pytest.raises(RefusedPickle) as refusal:
        load(assemble_attack("os\n\x1b[2J", "system", b"\x93"))
    assert str(refusal.value).isprintable()


HAS_OBJECT = {"names": ("x",), "fields": {"x": (O8, 0)}}
REFUSED = {
    **{f"dtype {code}": forged_array(forged_dtype(code), (1,), POINTER) for code in (
        "V8", "O,O", "f4,f4", "(2,)f4", "M8[ns]", "m8[s]", "c8", [("x", "O8")], (b"O8", 1), 8, None,
    )},
    "dtype of two fields": forged_array(forged_dtype("V8", **HAS_OBJECT), (1,), POINTER),
    "dtype that gets fields": forged_array(forged_dtype("f8", **HAS_OBJECT), (1,), POINTER),
    "dtype that gets a shape": forged_array(forged_dtype("f8", subarray=(O8, (1,))), (1,), POINTER),
    "dtype in a scalar": Call(Name("numpy.core.multiarray", "scalar"), (forged_dtype("V8", **HAS_OBJECT), POINTER)),
    "other encoding": Call(Name("_codecs", "encode"), ("x", "rot13")),
    "dtype alone": {"x": F8},
    "type alone": {"x": [NDARRAY]},
    "function alone": (Name("_codecs", "encode"),),
}
DAMAGED = {
    "objects from a buffer": Call(NDARRAY, ((1,), O8, POINTER)),
    "objects from a buffer, protocol 5": Call(Name("numpy._core.numeric", "_frombuffer"), (POINTER, O8, (1,), "C")),
    "objects from bytes": forged_array(O8, (8,), POINTER),
    "object scalar": Call(Name("numpy.core.multiarray", "scalar"), (O8, POINTER)),
    "dtype without a code": Call(Name("numpy", "dtype")),
    "dtype unknown": forged_array(forged_dtype("no such"), (1,), POINTER),
    "state that is no dtype": forged_array("O8", (1,), POINTER),
    "array without contents": {"x": Call(NDARRAY)},
    "contents too short": forged_array(F8, (2,), POINTER),
    "contents too long": forged_array(F8, (1,), POINTER * 2),
    "contents cut": forged_array(F8, (1,), POINTER[:5]),
    "contents of another type": forged_array(F8, (1,), [1.0]),
    "too few objects": forged_array(O8, (3,), ["x"]),
    "huge shape": forged_array(F8, (2**31 - 1,) * 8, POINTER),
    "not latin1": forged_array(F8, (1,), "\u4f60" * 8),
    "array as a key": {forged_array(F8, (1,), "x" * 8): 1},
}
RAW = {
    "nothing": b"", "text": b"not a pickle\n", "zip": b"PK\x03\x04" * 9, "no STOP": assemble([1])[:-1],
    "unknown protocol": b"\x80\x09N.", "nothing on the stack": b".", "missing memo": b"h\x07.",
    "persistent id": b"Pid\n.", "binary persistent id": assemble_attack("id", b"Q"),
    "extension": b"\x82\x01.", "buffer out of band": b"\x80\x05\x97.",
    "huge bytes": b"\x8e" + b"\xff" * 7 + b"\x7f.", "huge bytearray": b"\x80\x05\x96" + b"\xff" * 7 + b"\x7f.",
    "in itself": b"]q\x00h\x00a.", "deep": b"]" * 100_000 + b"a" * 99_999 + b".",
}


def test_forged_and_broken_pickles():
    expected = {
        **dict.fromkeys(REFUSED, "RefusedPickle"), **dict.fromkeys(DAMAGED, "UnpicklingError"),
        **dict.fromkeys(RAW, "UnpicklingError"),
    }
    streams = [*map(assemble, (REFUSED | DAMAGED).values()), *RAW.values()]
    assert dict(zip(expected, load_apart(streams), strict=True)) == expected


def test_lists_that_double_do_not_hang():
    """Forty lists, each of the one before it twice: small in memory, endless to walk through."""
    doubling = functools.reduce(lambda inner, _: [inner, inner], range(40), [])
    assert load_apart([pickle.dumps(doubling)]) == ["loaded"]


TIMES = 20_000
GROWING = {  # of some 500 kB
    "dicts": [Name("collections", "OrderedDict"), b"q\x00", ([[i, i] for i in range(25_000)],), b"q\x01", b"00",
              b"h\x00h\x01R" * TIMES],
    "bytes": [Name("_codecs", "encode"), b"q\x00", ("x" * 300_000, "latin1"), b"q\x01", b"00",
              b"h\x00h\x01R" * TIMES],
    "objects": [Name("numpy", "ndarray"), b"q\x00", (1, (100_000,), O8, False, [None] * 100_000), b"q\x01", b"00",
                b"h\x00)Rh\x01b" * TIMES],
    "scalars": [Name("numpy.core.multiarray", "scalar"), b"q\x00", (forged_dtype("S300000"), "x" * 300_000), b"q\x01",
                b"00", b"h\x00h\x01R" * TIMES],
    "str of Python 2": [Name("numpy", "ndarray"), b"q\x00", (1, (300_000,), forged_dtype("u1"), False, "x" * 300_000),
                        b"q\x01", b"00", b"h\x00)Rh\x01b" * TIMES],
}


@pytest.mark.parametrize("parts", GROWING.values(), ids=GROWING)
def test_a_small_file_does_not_grow_large(parts):
    stream = assemble_attack(b"(", *parts, b"l")
    with pytest.raises(pickle.UnpicklingError, match="makes far more than it holds"):
        load(stream)


DOUBLE_TUPLE = b"K\x01" + b"q\x00h\x00\x86" * 60  # each of the one before it twice: endless to hash or to show


def test_keys_are_plain_and_sets_are_refused():
    attacks = {
        "SETITEM": (b"}", DOUBLE_TUPLE, b"Ns"), "SETITEMS": (b"}(", DOUBLE_TUPLE, b"Nu"),
        "DICT": (b"(", DOUBLE_TUPLE, b"Nd"),
        "set": (b"\x8f(", DOUBLE_TUPLE, b"\x90"), "frozenset": (b"(", DOUBLE_TUPLE, b"\x91"),
        "dtype code": (Name("numpy", "dtype"), DOUBLE_TUPLE, b"\x85R"),
        "encoding": (Name("_codecs", "encode"), "x", DOUBLE_TUPLE, b"\x86R"),
    }
    expected = {key: "UnpicklingError" if key.isupper() else "RefusedPickle" for key in attacks}
    outcomes = load_apart([assemble_attack(*parts) for parts in attacks.values()])
    assert dict(zip(attacks, outcomes, strict=True)) == expected


def test_a_memo_of_one_far_entry_reserves_nothing():
    assert load(assemble_attack(b"]r\xff\xff\xff\xff")) == []


def test_a_pickle_cannot_change_its_reader(monkeypatch):
    monkeypatch.setattr(stand_ins.build_bytes, "__defaults__", before := stand_ins.build_bytes.__defaults__)
    with pytest.raises(pickle.UnpicklingError):
        load(assemble_attack(Name("_codecs", "encode"), (None, {"__defaults__": ("rot13",)}), b"b"))
    assert stand_ins.build_bytes.__defaults__ == before


WHOLE = {
    split: {"text": NUMBERS, "labels": NUMBERS[:, :1, :1].astype("f4"), "id": np.array([[b"a", b"b"]] * 4),
            "more": [objects(["x", b"y"]), np.float32(1), "caf\xe9"]}
    for split in ("train", "test")
}
STREAMS = [pickle.dumps(WHOLE, protocol) for protocol in range(6)] + [assemble(of_python_2({"x": NUMBERS, "y": "z"}))]


def test_every_cut_is_noticed():
    cuts = [stream[:end] for stream in STREAMS for end in range(0, len(stream), 97)]
    assert set(load_apart(cuts)) == {"UnpicklingError"}


def test_random_damage():
    """What is damaged loads, changed, or is refused or found to be damaged; no other exception, crash or hang."""
    rng = random.Random(0)
    damaged = []
    for stream in STREAMS * 80:
        copy = bytearray(stream)
        for _ in range(rng.choice((1, 1, 4))):
            copy[rng.randrange(len(copy))] = rng.randrange(256)
        damaged.append(bytes(copy))
    assert set(load_apart(damaged)) == {"loaded", "UnpicklingError", "RefusedPickle"}
