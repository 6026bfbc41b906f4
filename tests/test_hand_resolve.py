"""Which hand model is used and where MANO is looked for, the cache of parsed files, and the name a model has by its arrays."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from official_mano import fake_chumpy, write_official

from handnet.hand import parsed_cache
from handnet.hand.files import load_hand
from handnet.hand.mano_pickle import parse_mano_pickle
from handnet.hand.parsed_cache import cache_folder, entry_path
from handnet.hand.resolve import find_mano, resolve_hand


@pytest.fixture
def chumpy(monkeypatch):
    return fake_chumpy(monkeypatch)


pytestmark = pytest.mark.usefixtures("no_mano")


@pytest.fixture
def count_parses(monkeypatch):
    """How often a file was parsed."""
    calls = []
    monkeypatch.setattr("handnet.hand.files.parse_mano_pickle", lambda data, path: calls.append(path) or parse_mano_pickle(data, path))
    return calls


def test_a_given_place_goes_before_the_variable_and_that_before_the_default(chumpy, tmp_path, monkeypatch):
    assert find_mano() is None
    default = write_official(Path("mano"), chumpy, sides=("RIGHT",))
    assert find_mano() == default
    published = write_official(tmp_path / "set/mano_v1_2/models", chumpy)
    monkeypatch.setenv("HANDNET_MANO", str(tmp_path / "set"))
    assert find_mano() == published
    assert find_mano(default / "MANO_RIGHT.pkl") == default / "MANO_RIGHT.pkl"
    monkeypatch.setenv("HANDNET_MANO", str(tmp_path / "nowhere"))
    assert find_mano() is None  # what is set counts, even if the default would be there


def test_resolving(chumpy, tmp_path, monkeypatch):
    assert resolve_hand("free") is load_hand()
    with pytest.raises(
        FileNotFoundError, match=r"expected MANO_RIGHT\.pkl or MANO_RIGHT\.npz in mano \(the default; \$HANDNET_MANO is not set\)"
    ):
        resolve_hand("mano")
    monkeypatch.setenv("HANDNET_MANO", str(tmp_path / "set"))
    with pytest.raises(
        FileNotFoundError, match=r"in .*/set \(\$HANDNET_MANO\), found none; `handnet mano doctor` says more, and hand 'free' needs"
    ):
        resolve_hand("mano")
    write_official(tmp_path / "set", chumpy)
    model = resolve_hand("mano")
    assert model.name == "mano"
    assert np.allclose(model.v_template, load_hand().v_template)
    assert resolve_hand("mano", tmp_path / "set/MANO_RIGHT.pkl").name == "mano"
    with pytest.raises(ValueError, match="path: expected none with the free hand"):
        resolve_hand("free", tmp_path)
    with pytest.raises(ValueError, match="hand: expected 'free' or 'mano', got 'MANO'"):
        resolve_hand("MANO")


def test_a_model_is_named_by_its_arrays(chumpy, tmp_path):
    free = load_hand()
    folder = write_official(tmp_path / "a", chumpy)
    model = load_hand(folder)
    assert len(model.sha256) == 64
    assert model.sha256 != free.sha256  # its left fingertip is another vertex
    assert replace(model, name="other").sha256 == model.sha256
    assert replace(model, tips=free.tips, joint_axes=free.joint_axes).sha256 == free.sha256
    for name in ("v_template", "weights", "faces", "tips"):
        changed = getattr(model, name).copy()
        changed.flat[5] += 1
        assert replace(model, **{name: changed}).sha256 != model.sha256
    # rounding of the last digits does not make another model of it
    assert replace(model, v_template=model.v_template * (1 + 1e-16)).sha256 == model.sha256


def test_parsed_files_are_kept_by_checksum(chumpy, tmp_path, count_parses):
    folder = write_official(tmp_path / "a", chumpy)
    first = load_hand(folder)
    assert len(count_parses) == 2
    again = load_hand(folder)
    assert len(count_parses) == 2
    assert again.sha256 == first.sha256
    assert np.array_equal(again.posedirs, first.posedirs)
    assert sorted(cache_folder().iterdir()) == sorted(entry_path(path.read_bytes()) for path in folder.iterdir())
    moved = tmp_path / "b"
    folder.rename(moved)
    load_hand(moved)  # the same bytes elsewhere
    assert len(count_parses) == 2
    (moved / "MANO_LEFT.pkl").write_bytes((moved / "MANO_LEFT.pkl").read_bytes() + b" ")
    load_hand(moved)  # one more byte is another file
    assert len(count_parses) == 3


def cut(entry: Path) -> None:
    entry.write_bytes(entry.read_bytes()[:1000])


def flip_a_byte(entry: Path) -> None:
    data = bytearray(entry.read_bytes())
    data[len(data) // 2] ^= 1
    entry.write_bytes(data)


def change_an_array(entry: Path) -> None:
    with np.load(entry) as file:
        arrays = dict(file)
    arrays["v_template"] = arrays["v_template"] + 0.001
    np.savez(entry, **arrays)


def swap(entry: Path) -> None:
    (other,) = (path for path in entry.parent.iterdir() if path != entry)
    entry.write_bytes(other.read_bytes())


@pytest.mark.parametrize("damage", [cut, flip_a_byte, change_an_array, swap, lambda entry: entry.write_bytes(b"")])
def test_a_damaged_entry_is_built_again(chumpy, tmp_path, count_parses, caplog, damage):
    folder = write_official(tmp_path / "a", chumpy)
    expected = load_hand(folder)
    entry = entry_path((folder / "MANO_RIGHT.pkl").read_bytes())
    good = entry.read_bytes()
    damage(entry)
    with caplog.at_level(logging.WARNING):
        found = load_hand(folder)
    assert len(count_parses) == 3
    assert np.array_equal(found.v_template, expected.v_template)
    assert entry.read_bytes() == good
    assert f"{entry}: damaged, built again" in caplog.text


def test_a_cache_that_cannot_be_written_costs_time_only(chumpy, tmp_path, count_parses, caplog):
    (tmp_path / "cache").write_text("a file where a folder should be")
    folder = write_official(tmp_path / "a", chumpy)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert load_hand(folder).name == "mano"
    assert len(count_parses) == 4
    assert "can't be written" in caplog.text


def test_what_cannot_be_parsed_is_not_kept(tmp_path):
    file = tmp_path / "MANO_RIGHT.pkl"
    file.write_bytes(b"not a pickle")
    with pytest.raises(ValueError, match=r"MANO_RIGHT\.pkl: expected a pickle"):
        load_hand(file)
    assert not cache_folder().exists()


def test_an_interrupted_write_leaves_nothing(chumpy, tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    folder = write_official(tmp_path / "a", chumpy, sides=("RIGHT",))
    monkeypatch.setattr("os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load_hand(folder)
    assert not list(cache_folder().iterdir())


@pytest.mark.parametrize(("value", "expected"), [("", "~/.cache"), ("relative/cache", "~/.cache"), ("/absolute", "/absolute")])
def test_cache_folder_follows_the_specification(monkeypatch, value, expected):
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert parsed_cache.cache_folder() == Path(expected).expanduser() / "handnet/mano"
