"""Photos with pseudo-labels: a fake detector for the path of the labels, the real one for what it says about sides."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from official_layouts import zipped
from official_layouts_scene import assert_dots_at, painted_pair
from painted_hands import DOTS
from PIL import Image

from handnet.skeleton import SIDES
from pipelines import ingest as stage
from pipelines.config import IngestConfig, load_params
from pipelines.config_datasets import PhotosConfig
from pipelines.datasets import mediapipe_process, pseudo_labels
from pipelines.datasets.mediapipe_process import MediapipeProcess, find_python
from pipelines.datasets.photos import Photos
from pipelines.datasets.procedural import Procedural
from pipelines.datasets.pseudo_labels import Detection, label_photo
from pipelines.datasets.sample import DataError
from pipelines.shards import ShardReader

ROOT = Path(__file__).parents[1]
HEIGHT, WIDTH = 240, 360
ROTATED = 6  # EXIF: turn a quarter clockwise to see it upright


def scene(number: int):
    return painted_pair(700 + number, HEIGHT, WIDTH, 400.0)


class DotDetector:
    """Finds painted hands by their dots, one in each half, and tells their side by the thumb's place, as any detector must."""

    version = "1"

    def __init__(self) -> None:
        self.num_images = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def detect(self, image: np.ndarray) -> list[Detection]:
        self.num_images += 1
        found = []
        middle = image.shape[1] // 2
        for start, half in ((0, image[:, :middle]), (middle, image[:, middle:])):
            # on 2x2 blocks, so that the search is quick
            distance = np.abs(half[None].astype(np.int16) - DOTS[:, None, None].astype(np.int16)).max(-1)
            if (distance.reshape(21, -1).min(1) > 40).any():
                continue
            places = [np.argwhere(d <= 40).mean(0)[::-1] + 0.5 for d in distance]
            keypoints = np.array(places) + (start, 0)
            (x0, y0), (x1, y1) = keypoints[5] - keypoints[0], keypoints[17] - keypoints[0]
            found.append(Detection(0.9 if x0 * y1 - y0 * x1 > 0 else 0.2, keypoints))
        return found


class UnsureDetector(DotDetector):
    """Every second look (the mirrored ones) finds the index finger somewhere else, and the hand in the image's left half not at all."""

    def detect(self, image: np.ndarray) -> list[Detection]:
        found = super().detect(image)
        if self.num_images % 2 == 0:
            for hand in found:
                hand.keypoints_px[5:9] += 15
            return found[1:]
        return found


@pytest.fixture
def detector(monkeypatch):
    made = DotDetector()
    monkeypatch.setattr(pseudo_labels, "open_detector", lambda name, max_hands: made)
    return made


def save(path: Path, image: np.ndarray, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jpg":
        options = {"quality": 97, "subsampling": 0, **options}
    Image.fromarray(image).save(path, **options)
    return path


def turned_exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = ROTATED
    return exif


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos") / "album"
    save(folder / "a.jpg", scene(0).image)
    save(folder / "trip/day 1/b.PNG", scene(1).image)
    save(folder / "trip/c.webp", scene(2).image, lossless=True)
    # stored lying on its side, with the tag that says so
    save(folder / "trip/d.jpg", np.ascontiguousarray(np.rot90(scene(3).image)), exif=turned_exif())
    save(folder / "empty.jpg", np.full((50, 60, 3), 90, np.uint8))
    save(folder / ".thumbnails/a.jpg", scene(0).image)
    (folder / "notes.txt").write_text("no photo")
    return folder


def photos_config(path: Path, **changes) -> PhotosConfig:
    values = {"labeller": "mediapipe", "max_hands": 4, "min_score": 0.6, "min_confidence": 0.5, "max_side_px": None, "jpeg_quality": 95}
    values |= {"seed": 0, "val_fraction": 0.0, "max_quarantined": 0.0, "samples_per_shard": 4, **changes}
    return PhotosConfig(path=str(path), **values)


def open_photos(path: Path, cache: Path, split: str = "train", **changes) -> Photos:
    return Photos(photos_config(path, **changes), split, cache)


def test_photos_come_out_upright_with_their_hands(album, tmp_path, detector):
    dataset = open_photos(album, tmp_path)
    assert [dataset.where(i)[1] for i in range(len(dataset))] == ["a.jpg", "trip/c.webp", "trip/d.jpg", "trip/day 1/b.PNG"]
    for index, number in enumerate((0, 2, 3, 1)):
        sample, painted = dataset.sample(index), scene(number)
        assert sample.image.shape == painted.image.shape
        assert abs(sample.image.astype(int) - painted.image).mean() < 3
        assert (sample.encoded is not None) == (index == 0)  # the one JPEG that is stored upright
        assert not sample.K_known
        assert sample.mask is None
        assert {SIDES[hand.side] for hand in sample.hands} == {"left", "right"}
        for hand in sample.hands:
            np.testing.assert_allclose(hand.keypoints_px, painted.keypoints_px[SIDES[hand.side]], atol=0.75)
            assert hand.visible.all()
            assert_dots_at(sample.image, hand.keypoints_px, hand.visible)
            assert hand.source_id == f"photos/{dataset.where(index)[1]}"
    assert detector.num_images == 2 * 5  # each photo twice, the empty one too, the hidden one never
    open_photos(album, tmp_path)
    assert detector.num_images == 2 * 5  # labels are kept


def test_photos_of_an_archive_and_smaller_ones(album, tmp_path, detector):
    archive = zipped(album, tmp_path / "album.zip")
    dataset = open_photos(archive, tmp_path / "cache", max_side_px=300)
    assert len(dataset) == 4
    sample = dataset.sample(2)
    assert sample.image.shape == (200, 300, 3)
    assert sample.encoded is None
    for hand in sample.hands:
        difference = np.abs(hand.keypoints_px - scene(3).keypoints_px[SIDES[hand.side]] * 300 / WIDTH)
        assert np.median(difference) < 0.5  # a few dots are too small for the fake detector


def test_confidence_is_agreement(album, tmp_path, monkeypatch):
    monkeypatch.setattr(pseudo_labels, "open_detector", lambda name, max_hands: UnsureDetector())
    sample = open_photos(album, tmp_path).sample(0)
    (hand,) = sample.hands  # in the mirrored look the right hand was not found
    assert SIDES[hand.side] == "left"
    assert hand.visible.tolist() == [k not in (5, 6, 7, 8) for k in range(21)]
    everything = open_photos(album, tmp_path, min_score=0.0, min_confidence=0.0).sample(0)
    assert len(everything.hands) == 2
    assert all(hand.visible.all() for hand in everything.hands)


def test_one_hand_is_one_hand_in_both_looks():
    keypoints = scene(0).keypoints_px["right"]

    answers = [[Detection(0.95, keypoints)], [Detection(0.25, keypoints * (-1, 1) + (WIDTH - 2.0, 0))]]

    class Fixed(DotDetector):
        def detect(self, image):
            return answers.pop(0)

    (hand,) = label_photo(Fixed(), scene(0).image)
    assert hand.side == 1
    assert hand.score == pytest.approx((0.95 + 0.75) / 2)
    np.testing.assert_allclose(hand.keypoints_px, keypoints + (1, 0), atol=1e-6)
    size = np.ptp(keypoints, axis=0).max()
    np.testing.assert_allclose(hand.confidence, np.exp(-0.5 * (2 / size / pseudo_labels.AGREEMENT) ** 2))


def test_an_interrupted_labelling_goes_on(album, tmp_path, monkeypatch):
    class Interrupted(DotDetector):
        def detect(self, image):
            if self.num_images == 5:
                raise KeyboardInterrupt
            return super().detect(image)

    monkeypatch.setattr(pseudo_labels, "open_detector", lambda name, max_hands: Interrupted())
    with pytest.raises(KeyboardInterrupt):
        open_photos(album, tmp_path / "cache")
    (unfinished,) = (tmp_path / "cache").glob("*.unfinished")
    with unfinished.open("ab") as out:
        out.write(b'{"name": "half a li')
    another, rest = DotDetector(), DotDetector()
    another.version = "2"
    with monkeypatch.context() as patched:
        patched.setattr(pseudo_labels, "open_detector", lambda name, max_hands: another)
        open_photos(album, tmp_path / "cache")
    assert another.num_images == 2 * 5  # none of them goes on with another version's labels
    (made,) = (tmp_path / "cache").glob("*.jsonl")
    made.unlink()
    monkeypatch.setattr(pseudo_labels, "open_detector", lambda name, max_hands: rest)
    again = open_photos(album, tmp_path / "cache")
    assert rest.num_images == 2 * 3  # two photos were done
    whole = open_photos(album, tmp_path / "other")
    assert again.entries == whole.entries


def test_damage_is_set_aside_and_named(album, tmp_path, detector):
    folder = tmp_path / "album"
    for number in range(3):
        save(folder / f"{number}.jpg", scene(number).image)
    data = (folder / "1.jpg").read_bytes()
    (folder / "1.jpg").write_bytes(data[: len(data) // 2])
    (folder / "bad.png").write_bytes(b"no photo")
    dataset = open_photos(folder, tmp_path / "cache")
    assert [dataset.where(i)[1] for i in range(len(dataset))] == ["0.jpg", "1.jpg", "2.jpg", "bad.png"]
    for index, name in ((1, "1.jpg"), (3, "bad.png")):
        with pytest.raises(DataError, match=rf"{name}: not a whole"):
            dataset.sample(index)
    section = IngestConfig(photos=photos_config(folder, max_quarantined=0.7, val_fraction=0.25))
    train, val = (ShardReader(path) for path in stage.ingest("photos", section, data=tmp_path / "data", num_workers=1))
    assert train.manifest.num_quarantined + val.manifest.num_quarantined == 2
    assert len(train) + len(val) == 2
    with pytest.raises(DataError, match=r"max_quarantined \(0\) allows"):
        stage.ingest("photos", IngestConfig(photos=photos_config(folder)), data=tmp_path / "other", num_workers=1)


def test_folders_without_photos_or_hands(tmp_path, detector):
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match=r"expected photos \(\.jpg, \.jpeg, \.png, \.webp\), found none"):
        open_photos(tmp_path / "none", tmp_path / "cache")
    save(tmp_path / "empty/a.jpg", np.full((50, 60, 3), 90, np.uint8))
    with pytest.raises(DataError, match=r"in none of 1 photos a hand was found"):
        open_photos(tmp_path / "empty", tmp_path / "cache")
    save(tmp_path / "huge/a.png", np.zeros((9000, 9000), np.uint8))
    with pytest.raises(DataError, match=r"a\.png: expected at most [\d,]+ pixels"):
        open_photos(tmp_path / "huge", tmp_path / "cache").sample(0)


# --- the labeller's process -----------------------------------------------------------------------------------------


def test_a_missing_labeller_names_the_command(album, tmp_path, monkeypatch):
    monkeypatch.setattr(mediapipe_process, "ENVIRONMENT", tmp_path / "none")
    monkeypatch.delenv("HANDNET_PSEUDO_PYTHON", raising=False)
    monkeypatch.setattr(mediapipe_process.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"^labeller mediapipe: not installed; install it with `make pseudo`"):
        open_photos(album, tmp_path)
    monkeypatch.setenv("HANDNET_PSEUDO_PYTHON", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"nowhere: No such file or directory; install it with `make pseudo`"):
        open_photos(album, tmp_path)
    script = tmp_path / "python"
    for body, message in [
        ("echo broken >&2; exit 3", "its process ended with code 3: broken"),
        (f'exec {sys.executable} -S "$@"', r"python: ModuleNotFoundError: No module named 'mediapipe'; install it with"),
    ]:
        script.write_text(f"#!/bin/sh\n{body}\n")
        script.chmod(0o755)
        monkeypatch.setenv("HANDNET_PSEUDO_PYTHON", str(script))
        with pytest.raises(DataError, match=message):
            open_photos(album, tmp_path)


def test_a_labeller_that_dies_is_named(tmp_path, monkeypatch):
    script = tmp_path / "python"
    script.write_text('#!/bin/sh\necho \'{"version": "0"}\'\nexec 0<&-\necho out of memory >&2\nexit 9\n')
    script.chmod(0o755)
    monkeypatch.setenv("HANDNET_PSEUDO_PYTHON", str(script))
    with MediapipeProcess(2) as detector, pytest.raises(DataError, match="its process ended with code 9: out of memory"):
        detector.detect(np.zeros((400, 400, 3), np.uint8))


def real_mediapipe() -> bool:
    python = find_python()
    return python is not None and subprocess.run([python, "-c", "import mediapipe"], capture_output=True).returncode == 0


@pytest.mark.skipif("not real_mediapipe()", reason="mediapipe is not installed: `make pseudo` installs it")
def test_the_real_detector_tells_sides_and_places_of_rendered_hands(tmp_path):
    """The free hand is a right one; a mirrored picture of it shows a left one."""
    dataset = Procedural(load_params(ROOT / "params.yaml").ingest.procedural, "eval")
    found, errors = 0, []
    with MediapipeProcess(2) as detector:
        assert detector.version.startswith("mediapipe 0.10.")
        for index in range(4):
            sample = dataset.sample(index)
            label = sample.hands[0]
            mirrored = label.moved(np.eye(2, 3), flip_width_px=sample.width_px)
            for image, truth in ((sample.image, label), (np.ascontiguousarray(sample.image[:, ::-1]), mirrored)):
                for hand in label_photo(detector, image)[:1]:
                    found += 1
                    assert hand.side == truth.side
                    size = np.ptp(truth.keypoints_px, axis=0).max()
                    errors.append(np.linalg.norm(hand.keypoints_px - truth.keypoints_px, axis=1).mean() / size)
    assert found >= 6
    assert np.median(errors) < 0.08
