"""Datasets as folders and archives: every form gives the same files, damage is named, and nothing leads out or fills the memory."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import struct
import tarfile
import tracemalloc
import warnings
import zipfile
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from official_layouts import FORMS, in_form, in_pieces, tarred, zipped

from pipelines.datasets import annotations, archive_index, byte_sources, source_files
from pipelines.datasets.byte_sources import GzipBytes
from pipelines.datasets.sample import DataError
from pipelines.datasets.source_files import SourceFiles

MARKER = "list.txt"


@pytest.fixture
def folder(tmp_path) -> Path:
    """A little dataset: a marker, a large file, and names of many kinds."""
    root = tmp_path / "source" / "Data_v1"
    (root / "images/a").mkdir(parents=True)
    rng = np.random.default_rng(0)
    (root / MARKER).write_text("a/0\na/1\n")
    (root / "big.bin").write_bytes(rng.integers(0, 50, 300_000, np.uint8).tobytes())
    for name in ("images/a/0.bin", "images/a/1.bin", "images/a/Ünï.bin", "images/" + "long" * 40 + ".bin"):
        (root / name).write_bytes(rng.integers(0, 256, int(rng.integers(1, 3000)), np.uint8).tobytes())
    (root / "images/empty.bin").write_bytes(b"")
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_files(folder, form, tmp_path):
    want = contents(folder)
    path = in_form(folder, form)
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        files = SourceFiles(path, (MARKER,), folders=("images",), cache=cache)
        for name in [*want, *reversed(want)]:
            assert files.exists(name)
            assert files.read(name) == want[name]
            with files.open(name) as stream:
                assert stream.read() == want[name]
        assert list(files.names("images/a/")) == sorted(name for name in want if name.startswith("images/a/"))
        assert files.count("images/", ".bin") == 5
        assert not files.exists("images/a")
        assert not files.exists("images/a/2.bin")
        with pytest.raises(DataError, match=r"images/a/2\.bin: not found"):
            files.read("images/a/2.bin")


def test_a_dataset_may_be_several_archives(folder, tmp_path):
    """Images without a marker in one, lists in another with a top folder of its own; as a folder of both, and as a list."""
    want, parts = contents(folder), tmp_path / "parts"
    parts.mkdir()
    (tmp_path / "lists").mkdir()
    for name in (MARKER, "big.bin"):
        (folder / name).rename(tmp_path / "lists" / name)
    tarred(folder, parts / "images.tar", "images_2024/")
    zipped(tmp_path / "lists", parts / "lists.zip", "other/")
    for path in (parts, [str(parts / "images.tar"), str(parts / "lists.zip")]):
        files = SourceFiles(path, (MARKER,), folders=("images",))
        assert {name: files.read(name) for name in want} == want
    with pytest.raises(DataError, match=r"images\.tar: expected a folder or archive with one of \['list\.txt'\], found none"):
        SourceFiles(parts / "images.tar", (MARKER,), folders=("images",))


@given(
    names=st.lists(st.text("abc/.é ", min_size=1, max_size=8).map(lambda t: f"d/{t.strip('/. ') or 'x'}".replace("//", "/")), max_size=6),
    seed=st.integers(0, 1000),
    form=st.sampled_from(["stored", "deflated", "tar", "tar.gz"]),
    num_pieces=st.integers(1, 4),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_members_are_found_at_random(tmp_path_factory, names, seed, form, num_pieces):
    """Against a dictionary, in random order, of several members of one name the last; pieces cut anywhere."""
    rng = np.random.default_rng(seed)
    scratch = tmp_path_factory.mktemp("random")
    members = [("marker", b"m"), *((name, rng.bytes(int(rng.integers(0, 2000)))) for name in names)]
    if form in ("stored", "deflated"):
        path = scratch / "x.zip"
        kind = zipfile.ZIP_STORED if form == "stored" else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile(path, "w", kind) as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of names that are there twice
            for name, data in members:
                archive.writestr(name, data)
    else:
        path = scratch / f"x.{form}"
        with tarfile.open(path, "w:gz" if form == "tar.gz" else "w") as tar:
            for name, data in members:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    if num_pieces > 1:
        path = in_pieces(path, scratch / "pieces", num_pieces)
    files, want = SourceFiles(path, ("marker",)), dict(members)
    order = [list(want)[i] for i in rng.integers(0, len(want), 12)]
    for name in order:
        assert files.read(name) == want[name]
        assert files.open(name).read() == want[name]
    assert sorted(files.names("")) == sorted(want) or path.is_dir()


def test_an_index_is_made_once(folder, tmp_path, monkeypatch):
    path = tarred(folder, tmp_path / "x.tar")
    want = SourceFiles(path, (MARKER,), cache=tmp_path / "cache").read("big.bin")
    monkeypatch.setattr(archive_index, "_scan", lambda *_: pytest.fail("scanned again"))
    assert SourceFiles(path, (MARKER,), cache=tmp_path / "cache").read("big.bin") == want
    os.utime(path, (1, 1))  # another file, as far as anybody knows
    with pytest.raises(pytest.fail.Exception, match="scanned again"):
        SourceFiles(path, (MARKER,), cache=tmp_path / "cache")


def test_gzip_is_read_forwards_and_back(tmp_path, monkeypatch):
    """Places are remembered, cursors stay where they are, joined files go on; every range is the one of the plain bytes."""
    monkeypatch.setattr(byte_sources, "REMEMBER_EVERY", 3000)
    monkeypatch.setattr(byte_sources, "GZIP_CHUNK", 700)
    rng = np.random.default_rng(0)
    plain = rng.integers(0, 30, 40_000, np.uint8).tobytes()
    pack = zlib.compressobj(wbits=31), zlib.compressobj(wbits=31)
    data = pack[0].compress(plain[:17_000]) + pack[0].flush() + pack[1].compress(plain[17_000:]) + pack[1].flush() + bytes(9)
    path = tmp_path / "x.gz"
    path.write_bytes(data)
    source = GzipBytes(byte_sources.FileBytes([path]), "x.gz")
    for _ in range(300):
        start, size = int(rng.integers(0, 41_000)), int(rng.integers(0, 2500))
        assert source.read_at(start, size) == plain[start : start + size]
    assert len(source._cursors) <= byte_sources.MAX_CURSORS
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match=r"x\.gz: damaged at byte .*truncated"):
        GzipBytes(byte_sources.FileBytes([path]), "x.gz").read_at(39_000, 10)


# --- nothing leads out ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../secret.txt", "images/../../secret.txt", "/etc/hostname", "images/a\0b"])
@pytest.mark.parametrize("form", ["folder", "zip", "tar"])
def test_no_name_leads_out(folder, name, form):
    (folder.parent / "secret.txt").write_text("secret")
    files = SourceFiles(in_form(folder, form), (MARKER,))
    for reading in (files.read, files.open, files.read_image):
        with pytest.raises(DataError, match="expected a name within the dataset"):
            reading(name)


def test_links_and_devices_in_tars_are_no_files(folder, tmp_path):
    path = tarred(folder, tmp_path / "x.tar")
    with tarfile.open(path, "a") as tar:
        for name, kind in (("images/link", tarfile.SYMTYPE), ("images/hard", tarfile.LNKTYPE), ("images/device", tarfile.CHRTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/hostname"
            tar.addfile(info)
    files = SourceFiles(path, (MARKER,))
    assert not any(files.exists(f"images/{name}") for name in ("link", "hard", "device"))
    assert files.count("images/") == 5


def test_names_that_climb_are_never_written(tmp_path):
    """Members called ../x exist in the index at most: reading a dataset writes nothing but its cache."""
    path = tmp_path / "in" / "x.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for name in (MARKER, "../../up.txt", "/abs.txt", "a/../../b.txt"):
            archive.writestr(name, "x")
    before = sorted(tmp_path.rglob("*"))
    files = SourceFiles(path, (MARKER,), cache=tmp_path / "cache")
    assert files.read(MARKER) == b"x"
    written = [p for p in tmp_path.rglob("*") if p not in before]
    assert all(p == tmp_path / "cache" or p.parent == tmp_path / "cache" for p in written)
    assert len(written) == 4


# --- nothing fills the memory ---------------------------------------------------------------------------------------


def zip_that_lies(path: Path, data: bytes, claimed: int) -> Path:
    """A zip whose member "bomb" unpacks to `data` but says it is `claimed` bytes, in both of its headers."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MARKER, "x")
        archive.writestr("bomb", data)
    raw = path.read_bytes()
    assert raw.count(struct.pack("<I", len(data))) == 2
    path.write_bytes(raw.replace(struct.pack("<I", len(data)), struct.pack("<I", claimed)))
    return path


def test_bombs_take_no_memory(tmp_path):
    size = 200 << 20
    with zipfile.ZipFile(tmp_path / "honest.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MARKER, "x")
        with archive.open("bomb", "w", force_zip64=True) as out:
            for _ in range(size >> 20):
                out.write(bytes(1 << 20))
    lying = zip_that_lies(tmp_path / "lying.zip", bytes(33_333_333), 1000)
    endless = tmp_path / "endless.json"
    endless.write_bytes(b"[[" + b"1," * (20 << 20))
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"bomb: expected at most 67,108,864 bytes, got 209,715,200"):
            SourceFiles(tmp_path / "honest.zip", (MARKER,)).read("bomb")
        with pytest.raises(DataError, match=r"bomb: damaged: expected 1,000 bytes, got more"):
            SourceFiles(lying, (MARKER,)).read("bomb")
        stream = SourceFiles(lying, (MARKER,)).open("bomb")
        with pytest.raises(DataError, match="bomb: damaged: its checksum is wrong"):
            stream.read()
        with endless.open("rb") as text, pytest.raises(DataError, match=r"x: entry 0: expected at most 16,777,216 bytes"):
            list(annotations.iter_entries(text, "x"))
        assert tracemalloc.get_traced_memory()[1] < 150 << 20
    finally:
        tracemalloc.stop()


def tar_header(kind: bytes, size: int) -> bytes:
    """A tar header of `kind` that claims a size in base 256, as GNU's writers put what eleven octal digits cannot hold."""
    header = bytearray(tarfile.TarInfo("member").tobuf()[:512])
    header[124:136] = b"\x80" + size.to_bytes(11, "big") if size >= 0 else size.to_bytes(12, "big", signed=True)
    header[156:157] = kind
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


@pytest.mark.parametrize("size", [-5, 1 << 34, 1 << 62, 1 << 80])
@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"0"])
@pytest.mark.parametrize("form", ["tar", "tar.gz"])
def test_tar_headers_cannot_ask_for_memory(tmp_path, form, kind, size):
    path = tmp_path / f"data.{form}"
    data = tar_header(kind, size) + bytes(20 << 20)
    path.write_bytes(gzip.compress(data, 1) if form == "tar.gz" else data)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=rf"{path.name}: (not an archive that can be read|damaged|expected a folder or archive)"):
            SourceFiles(path, (MARKER,))
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.sampled_from([0, 1, 0x41, 0x80, 0xFF])), min_size=1, max_size=4),
    form=st.sampled_from(["zip", "tar", "tar.gz"]),
)
def test_damaged_archives_are_errors_never_crashes(tmp_path, changes, form):
    """Whatever bytes are overwritten: members come out, or a DataError does."""
    path = tmp_path / f"data.{form}"
    if form == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(MARKER, "x" * 200)
            archive.writestr("folder/ä.bin", bytes(range(256)))
    else:
        with tarfile.open(path, "w:gz" if form == "tar.gz" else "w", format=tarfile.PAX_FORMAT) as archive:
            for name in (MARKER, "folder/ä" + "long" * 40):
                info = tarfile.TarInfo(name)
                info.size = 300
                archive.addfile(info, io.BytesIO(bytes(300)))
    data = bytearray(path.read_bytes())
    for place, value in changes:
        data[int(place * (len(data) if form != "tar" else 3000))] = value
    path.write_bytes(data)
    archive_index._in_memory.clear()
    try:
        files = SourceFiles(path, ())
        for name in files.names(""):
            with contextlib.suppress(DataError):
                files.read(name)
            with contextlib.suppress(DataError):
                files.open(name).read()
    except DataError:
        pass


def test_a_name_too_long_for_the_file_system_is_not_found(folder):
    with pytest.raises(DataError, match=r"a+: not found"):
        SourceFiles(folder, (MARKER,)).read("a" * 300)


def test_pictures_that_claim_to_be_huge_are_not_decoded(tmp_path):
    jpeg = bytearray(cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes())
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", 65000, 65000)
    png = bytearray(cv2.imencode(".png", np.zeros((16, 16, 3), np.uint8))[1].tobytes())
    png[16:24] = struct.pack(">II", 60000, 50000)
    for data in (jpeg, png):
        with pytest.raises(DataError, match=r"x: expected at most 67,108,864 pixels, got \d\d,000 x 6[05],000"):
            source_files.decode_image(bytes(data), "x")


# --- damage ---------------------------------------------------------------------------------------------------------


def flipped(path: Path, at: int) -> Path:
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("form", ["zip", "tar", "tar.gz"])
def test_truncated_archives_are_named(folder, form):
    path = in_form(folder, form)
    whole = path.read_bytes()
    for cut in (len(whole) // 2, len(whole) - {"tar": 10_240, "tar.gz": 4000, "zip": 30}[form], 0):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=rf"{path.name}: (not an archive that can be read \(truncated\?\)|damaged)"):
            SourceFiles(path, (MARKER,))


def test_damage_within_is_named(folder, tmp_path):
    path = zipped(folder, tmp_path / "a.zip")
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo("big.bin").header_offset
    files = SourceFiles(flipped(path, offset + 5000), (MARKER,))
    for reading in (files.read, lambda name: files.open(name).read()):
        with pytest.raises(DataError, match=r"a\.zip: big\.bin: damaged"):
            reading("big.bin")
    assert files.read("images/a/0.bin") == (folder / "images/a/0.bin").read_bytes()
    files = SourceFiles(flipped(zipped(folder, tmp_path / "b.zip"), offset), (MARKER,))
    with pytest.raises(DataError, match=r"b\.zip: big\.bin: damaged: no zip header"):
        files.read("big.bin")
    path = tarred(folder, tmp_path / "c.tar")
    with tarfile.open(path) as tar:
        header = tar.getmember("images/a/1.bin").offset
    with pytest.raises(DataError, match=r"c\.tar: not an archive that can be read .*: no header at byte"):
        SourceFiles(flipped(path, header + 3), (MARKER,))


def test_archives_that_cannot_be_read_are_said_so(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "lzma.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr(MARKER, "x" * 100)
    with pytest.raises(DataError, match=r"lzma\.zip: .*list\.txt has compression method 14; expected plain members"):
        SourceFiles(tmp_path / "lzma.zip", (MARKER,))
    path = zipped(folder, tmp_path / "secret.zip")
    data = bytearray(path.read_bytes())
    data[data.rindex(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"secret\.zip: .* is encrypted"):
        SourceFiles(path, (MARKER,))
    for name in ("x.tar.xz", "x.rar", "x.mp4"):
        (tmp_path / name).write_bytes(b"x")
        with pytest.raises(DataError, match=rf"{name}: expected a zip, tar or tar\.gz"):
            SourceFiles(tmp_path / name, (MARKER,))
    pieces = in_pieces(tarred(folder, tmp_path / "y.tar"), tmp_path / "pieces", 4)
    (pieces / "y.tar.partab").unlink()
    for given_path in (pieces, pieces / "y.tar.partac"):
        with pytest.raises(DataError, match=r"y\.tar: piece 2 of 4 is missing"):
            SourceFiles(given_path, (MARKER,))


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_damaged_images_are_found(tmp_path, suffix):
    """Cut anywhere, or overwritten in the middle: nothing of it may be taken for a picture."""
    rng = np.random.default_rng(0)
    picture = cv2.GaussianBlur(rng.integers(0, 256, (64, 80, 3), np.uint8), (0, 0), 1.5)
    data = cv2.imencode(suffix, picture)[1].tobytes()
    assert source_files.decode_image(data, "x").shape == (64, 80, 3)
    assert source_files.decode_image(data, "x", color=False).shape == (64, 80)
    bad = [data[:cut] for cut in range(0, len(data) - 2, 97)]
    middle = len(data) // 2
    bad += [data[:middle] + fill * 200 + data[middle + 200 :] for fill in (b"\xff", b"\xd9")]
    for broken in bad:
        with pytest.raises(DataError, match=r"^x: "):
            source_files.decode_image(broken, "x")
    with pytest.raises(DataError, match=r"x: expected height, width \(80, 64\), got \(64, 80\)"):
        source_files.decode_image(data, "x", shape=(80, 64))
