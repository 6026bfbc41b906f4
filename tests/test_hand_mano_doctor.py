"""`handnet mano doctor` on files in the official layout: what it says and how it exits, for every way they can be wrong."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from official_mano import fake_chumpy, official_content, write, write_official
from typer.testing import CliRunner

from handnet.cli import app


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return Path.mkdir, (self.target,)


@pytest.fixture
def chumpy(monkeypatch):
    return fake_chumpy(monkeypatch)


pytestmark = pytest.mark.usefixtures("no_mano")


def doctor(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["mano", "doctor", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.output


def test_nothing_there_is_fine():
    code, text = doctor()
    assert code == 0
    assert "looked at   mano (the default; $HANDNET_MANO is not set)" in text
    assert "MANO        none; docs/mano.md says where" in text
    assert "will use    hand 'free', this package's own, which needs no file" in text


def test_good_files(chumpy, tmp_path):
    folder = write_official(tmp_path / "mano", chumpy)
    code, text = doctor(folder)
    assert code == 0
    assert "WRONG" not in text
    for side in ("RIGHT", "LEFT"):
        size = (folder / f"MANO_{side}.pkl").stat().st_size
        assert f"{folder}/MANO_{side}.pkl, {size:,} bytes, sha256 " in text
        assert f"a {side.lower()} hand, 186 mm from wrist to middle fingertip" in text
    assert "sides       the left template is 0.00 mm or less from the mirrored right one" in text
    assert f"kept in {tmp_path}/cache/handnet/mano" in text
    assert "will use    hand 'mano' is these files (model sha256 " in text


def test_the_variable_and_the_published_folders_are_found(chumpy, tmp_path, monkeypatch):
    write_official(tmp_path / "set/mano_v1_2/models", chumpy)
    monkeypatch.setenv("HANDNET_MANO", str(tmp_path / "set"))
    code, text = doctor()
    assert code == 0
    assert "($HANDNET_MANO)" in text
    assert "mano_v1_2/models/MANO_RIGHT.pkl" in text


def test_the_left_fault_is_fixed_and_said(chumpy, tmp_path):
    folder = write_official(tmp_path, chumpy, sides=("RIGHT",))
    content = official_content(0, chumpy)
    content["shapedirs"].a.x[:, 0] *= -1
    write(folder / "MANO_LEFT.pkl", content, "python 2")
    code, text = doctor(folder)
    assert code == 0
    assert "its shapedirs have the right hand's sign in x, the known fault of the official file: put right when it is loaded" in text


@pytest.mark.parametrize(("side", "other"), [("RIGHT", "LEFT"), ("LEFT", "RIGHT")])
def test_one_file_serves_both_sides(chumpy, tmp_path, side, other):
    write_official(tmp_path, chumpy, sides=(side,))
    code, text = doctor(tmp_path / f"MANO_{side}.pkl")
    assert code == 0
    assert f"MANO_{other}".ljust(11) + f" not there: the {other.lower()} hand will be the mirrored {side.lower()} one" in text


def test_an_npz_beside_a_pickle_is_the_one_used(chumpy, tmp_path):
    write_official(tmp_path, chumpy)
    model = official_content(1, chumpy)
    arrays = {key: model[key] for key in ("v_template", "posedirs", "weights", "hands_mean", "hands_components", "f", "kintree_table")}
    np.savez(tmp_path / "MANO_RIGHT.npz", shapedirs=model["shapedirs"].a.x[..., :10], J_regressor=model["J_regressor"].toarray(), **arrays)
    code, text = doctor(tmp_path)
    assert code == 0
    assert "MANO_RIGHT.pkl is not used: MANO_RIGHT.npz goes before it" in text


def test_missing_files(chumpy, tmp_path, monkeypatch):
    code, text = doctor(tmp_path / "nowhere")
    assert code == 1
    assert "MANO        WRONG: no such file or folder; docs/mano.md" in text
    write_official(tmp_path / "left only", chumpy, sides=("LEFT",))
    code, text = doctor(tmp_path / "left only")
    assert code == 1
    assert "MANO_RIGHT  WRONG: missing: expected MANO_RIGHT.pkl or MANO_RIGHT.npz in one of" in text
    assert "there is MANO_LEFT.pkl" in text
    monkeypatch.setenv("HANDNET_MANO", str(tmp_path / "unset"))
    code, text = doctor()
    assert (code, "WRONG: no such file or folder" in text) == (1, True)
    assert "hand 'free' is this package's own and can be used; hand 'mano' will stop with an error" in text
    monkeypatch.delenv("HANDNET_MANO")
    Path("mano").mkdir()
    code, text = doctor()
    assert code == 1
    assert "there is nothing" in text


def test_a_left_hand_in_the_right_file(chumpy, tmp_path):
    write_official(tmp_path, chumpy)
    (tmp_path / "MANO_LEFT.pkl").rename(tmp_path / "MANO_RIGHT.pkl")
    code, text = doctor(tmp_path)
    assert code == 1
    assert "MANO_RIGHT  WRONG: v_template: expected a right hand (fingers to -x), got a left one" in text


def test_the_same_file_twice(chumpy, tmp_path):
    write_official(tmp_path, chumpy)
    (tmp_path / "MANO_LEFT.pkl").write_bytes((tmp_path / "MANO_RIGHT.pkl").read_bytes())
    code, text = doctor(tmp_path)
    assert code == 1
    assert "MANO_LEFT   WRONG: the same file as MANO_RIGHT.pkl" in text
    assert "MANO_LEFT   WRONG: v_template: expected a left hand (fingers to +x), got a right one" in text


def content_without(key: str, chumpy: tuple[type, type]) -> dict:
    content = official_content(1, chumpy)
    del content[key]
    return content


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data, chumpy: data[: len(data) // 2], "expected a pickle of plain containers and numpy arrays, got one that is cut short"),
        (lambda data, chumpy: b"", "expected a pickle of plain containers and numpy arrays, got "),
        (lambda data, chumpy: b"PK\x03\x04 an archive", "expected a pickle of plain containers and numpy arrays, got "),
        (lambda data, chumpy: pickle.dumps([1, 2]), "expected a dictionary of arrays, got a list"),
        (lambda data, chumpy: pickle.dumps({"poses": np.zeros(3)}), "v_template: expected an array of shape (778, 3), found no such key"),
        (lambda data, chumpy: pickle.dumps(content_without("posedirs", chumpy), 2), "posedirs: expected an array of shape (778, 3, 135)"),
    ],
    ids=["truncated", "empty", "an archive", "another pickle", "not MANO", "incomplete"],
)
def test_files_that_are_not_mano(chumpy, tmp_path, damage, message):
    write_official(tmp_path, chumpy)
    file = tmp_path / "MANO_RIGHT.pkl"
    file.write_bytes(damage(file.read_bytes(), chumpy))
    code, text = doctor(tmp_path)
    assert code == 1
    assert f"MANO_RIGHT  WRONG: {message}" in text
    assert "a left hand, 186 mm" in text  # the other file is looked at all the same


def test_other_kinds_of_files(tmp_path):
    file = tmp_path / "mano_v1_2.zip"
    file.write_bytes(b"PK")
    code, text = doctor(file)
    assert code == 1
    assert "WRONG: expected a hand model as .npz or .pkl, or a folder with MANO_RIGHT.*, got suffix '.zip'" in text


def test_a_malicious_pickle_is_refused_and_does_not_run(tmp_path):
    (tmp_path / "MANO_RIGHT.pkl").write_bytes(pickle.dumps({"v_template": Bomb(tmp_path / "exploded")}))
    code, text = doctor(tmp_path)
    assert code == 1
    assert "Path.mkdir" in text or "getattr" in text
    assert "which is refused" in text
    assert not (tmp_path / "exploded").exists()
