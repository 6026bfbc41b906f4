"""Official MANO pickles, imitated down to Python 2's byte strings, and everything a pickle must not do here."""

import collections
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from official_mano import fake_chumpy, official_content, write

from handnet.hand.files import load_hand
from handnet.hand.plain_pickle import Opaque, parse_plain_pickle


@pytest.fixture
def chumpy(monkeypatch):
    return fake_chumpy(monkeypatch)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.mark.parametrize("style", ["python 2", "1", "2", "4", "5"])
def test_official_files_give_the_same_hand(tmp_path, chumpy, style):
    for side, name in enumerate(("LEFT", "RIGHT")):
        write(tmp_path / f"MANO_{name}.pkl", official_content(side, chumpy), style)
    model, free = load_hand(tmp_path), load_hand()
    for name in ("v_template", "shapedirs", "posedirs", "J_regressor", "weights", "hands_mean", "hands_components", "faces"):
        assert np.allclose(getattr(model, name), getattr(free, name), rtol=0, atol=1e-15), name
    assert model.tips.tolist() == [[745, 317, 445, 556, 673], [745, 317, 444, 556, 673]]


def test_the_left_shapedirs_fault_is_removed(tmp_path, chumpy):
    content = official_content(0, chumpy)
    content["shapedirs"].a.x[:, 0] *= -1
    write(tmp_path / "MANO_LEFT.pkl", content, "python 2")
    write(tmp_path / "MANO_RIGHT.pkl", official_content(1, chumpy), "python 2")
    assert np.array_equal(load_hand(tmp_path).shapedirs, load_hand().shapedirs)


def test_one_file_alone_is_mirrored(tmp_path, chumpy):
    model = load_hand(write(tmp_path / "MANO_LEFT.pkl", official_content(0, chumpy), "2"))
    assert np.array_equal(model.v_template, load_hand().v_template)


def test_a_chumpy_constant_and_plain_arrays_work_too(tmp_path, chumpy):
    content = official_content(1, chumpy)
    content["shapedirs"] = chumpy[0]()
    content["shapedirs"].__dict__.update(x=load_hand().shapedirs[1])
    content["J_regressor"] = content["J_regressor"].toarray()
    model = load_hand(write(tmp_path / "MANO_RIGHT.pkl", content, "2"))
    assert np.array_equal(model.shapedirs[1], load_hand().shapedirs[1])
    assert np.array_equal(model.J_regressor[1], load_hand().J_regressor[1])


PLAIN = [
    None,
    True,
    [1, -5, 70000, 2**40, 2**70, 1.5, "text", "µ" * 300, b"bytes", b"\x00\xff" * 200],
    {"a": (1,), "b": (1, 2), "c": (1, 2, 3), "d": (1, 2, 3, 4), "e": ()},
    {1, 2},
    frozenset({3}),
    collections.OrderedDict([("x", 1)]),
    np.arange(12.0).reshape(3, 4),
    np.asfortranarray(np.arange(12).reshape(3, 4)),
    np.arange(6, dtype=">i2"),
    np.array(["ab", "c"]),
    np.array([True, False]),
    np.zeros((0, 3), np.float32),
    np.array(7.0),
    np.array([None, {"a": 1}, [2]], dtype=object),
    np.float32(2.5),
    np.int64(-3),
    [np.uint8(200)] * 3,
    {"nested": [{"deep": (np.ones(2), [np.zeros(1)])}]},
]


def same(a: object, b: object) -> bool:
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape and all(map(same, a.ravel().tolist(), b.ravel().tolist()))
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return a == b and (isinstance(a, dict) or type(a) is type(b))


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("value", PLAIN, ids=lambda value: repr(value)[:20].replace("\n", ""))
def test_plain_values_equal_what_pickle_reads(value, protocol):
    data = pickle.dumps(value, protocol)
    assert same(parse_plain_pickle(data, "value"), pickle.loads(data) if not isinstance(value, dict) else dict(value))


def test_shared_and_growing_objects_keep_their_identity():
    shared = np.ones(3)
    loop: list = []
    loop.append(loop)
    first, second, again = parse_plain_pickle(pickle.dumps([shared, shared, loop]), "value")
    assert first is second
    assert again[0] is again


class Bomb:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize(
    ("function", "name"),
    [(os.mkdir, r"(posix|nt)\.mkdir"), (eval, r"(__builtin__|builtins)\.eval"), (getattr, r"getattr")],
)
def test_code_is_refused_by_name_and_never_runs(tmp_path, function, name, protocol):
    target = tmp_path / "made"
    argument = {os.mkdir: (str(target),), eval: (f"__import__('os').mkdir({str(target)!r})",), getattr: (1, "real")}[function]
    file = tmp_path / "MANO_RIGHT.pkl"
    file.write_bytes(pickle.dumps({"v_template": Bomb(function, *argument)}, protocol))
    with pytest.raises(ValueError, match=rf"MANO_RIGHT\.pkl: expected a pickle of plain.*{name}, which is refused"):
        load_hand(file)
    assert not target.exists()


def test_objects_of_unknown_classes_are_refused():
    with pytest.raises(ValueError, match=r"^x\.pkl: .*pathlib.*which is refused"):
        parse_plain_pickle(pickle.dumps(Path("a")), "x.pkl")


def test_classes_let_through_become_opaque(chumpy):
    value = chumpy[0]()
    value.__dict__.update(x=1)
    got = parse_plain_pickle(pickle.dumps(value), "value", {("chumpy.ch", "Ch")})
    assert got == Opaque(("chumpy.ch", "Ch"), {"x": 1})
    with pytest.raises(ValueError, match=r"chumpy\.ch\.Ch, which is refused"):
        parse_plain_pickle(pickle.dumps(value), "value")


def array_pickle(shape: bytes, dtype: bytes, content: bytes) -> bytes:
    """A hand-written protocol-0 array, to lie in."""
    head = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
    kind = b"(I1\n" + shape + b"cnumpy\ndtype\n(S'" + dtype + b"'\nI0\nI1\ntR"
    order = b"(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"
    return head + kind + order + b"I00\n" + content + b"tb."


def test_hand_written_array_is_read():
    got = parse_plain_pickle(array_pickle(b"(I2\nt", b"u1", b"S'ab'\n"), "value")
    assert got.tolist() == [97, 98]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x02}q\x00.garbage"[:-9],
        b"not a pickle",
        pickle.dumps({"a": np.ones(100)})[:-40],
        array_pickle(b"(I1000000\nt", b"u1", b"S'ab'\n"),  # claims more than it holds
        array_pickle(b"(I-2\nt", b"u1", b"S'ab'\n"),
        array_pickle(b"(I2\nt", b"O8", b"S'ab'\n"),  # bytes posing as object pointers
        array_pickle(b"(I1\nt", b"V8", b"S'abcdefgh'\n"),
        b"(lp0\nI1\nb.",  # a state for a list
        b"cbuiltins\nset\n(I5\ntR.",
        b"cnumpy.core.multiarray\n_reconstruct\n(cbuiltins\nobject\n(I0\ntS'b'\ntR.",
        b"I1\n(I2\ntR.",  # a call of a number
        b"\x80\x02P1\n.",  # a persistent id
    ],
)
def test_damaged_or_lying_files_are_named(data):
    with pytest.raises(ValueError, match=r"^lie: expected a pickle of plain containers"):
        parse_plain_pickle(data, "lie")


def test_wrong_content_is_named(tmp_path, chumpy):
    file = tmp_path / "MANO_RIGHT.pkl"
    with pytest.raises(ValueError, match=r"MANO_RIGHT\.pkl: expected a dictionary of arrays, got a list"):
        load_hand(write(file, [1], "2"))
    content = official_content(1, chumpy)
    content["shapedirs"].preferred_shape = (778, 3, 11)
    with pytest.raises(ValueError, match=r"MANO_RIGHT\.pkl: shapedirs: expected an array.*cannot reshape"):
        load_hand(write(file, content, "2"))
    content = official_content(1, chumpy) | {"weights": "none"}
    with pytest.raises(ValueError, match=r"MANO_RIGHT\.pkl: weights: expected an array.*a str without content"):
        load_hand(write(file, content, "2"))
    del content["weights"]
    with pytest.raises(ValueError, match=r"MANO_RIGHT\.pkl: weights: expected an array of shape \(778, 16\), found no such key"):
        load_hand(write(file, content, "2"))
