"""Evaluations of made-up hands by predictors that know the answers and may falsify them. For tests."""

from __future__ import annotations

from fake_hands import truth, write_shards

from handnet.hand.layer import HandLayer
from pipelines.config import EvaluationConfig
from pipelines.evaluation.evaluator import Evaluator
from pipelines.evaluation.frames import crop_frame, middle_frame
from pipelines.evaluation.runner import evaluate_images
from pipelines.evaluation.table import HandColumns, HandTable
from pipelines.shards import ShardReader

INPUT_PX = 64


def config(**changes):
    values = {
        "model": "crop",
        "data": "fake",
        "mean_hand_data": "fake",
        "protocol": "aligned",
        "joints": "trained",
        "ground_truth": None,
        "centers": "true",
        "batch_size": 4,
        "score_threshold": 0.3,
        "min_similarity": 0.1,
        "max_samples": None,
    }
    return EvaluationConfig(**{**values, **changes})


class Oracle:
    """Answers for the frames of `samples` in the order in which evaluation asks for them; `change` may falsify a sample's hands."""

    def __init__(self, samples, answers):
        self.queue = [answers(sample, frame) for sample in samples for frame in self.frames(sample)]
        self.thresholds = set()

    def frames(self, sample):
        raise NotImplementedError

    def predict(self, images, K=None, centers_px=None, *, score_threshold=0.3):
        assert images.shape[1:] == (INPUT_PX, INPUT_PX, 3)
        assert K.shape == (len(images), 3, 3)
        assert centers_px is None or len(centers_px) == len(images)
        self.thresholds.add(score_threshold)
        answers, self.queue = self.queue[: len(images)], self.queue[len(images) :]
        return answers


class CropOracle(Oracle):
    def frames(self, sample):
        return [crop_frame(sample, hand, INPUT_PX, "keypoints") for hand in sample.hands]


class WholeOracle(Oracle):
    def frames(self, sample):
        return [middle_frame(sample, INPUT_PX, center_given=False)]


def all_true(sample, frame):
    return [truth(hand, frame.affine, frame.K) for hand in sample.hands]


def run(tmp_path, samples, oracle, mean_hand, settings):
    """Results, the table of hands as columns, and the evaluated images."""
    folder = write_shards(tmp_path / "shards", samples)
    with HandTable(tmp_path / "out" / "hands.parquet") as table:
        evaluator = Evaluator(mean_hand, settings, input_px=INPUT_PX, definition="keypoints", table=table)
        images = list(evaluate_images(ShardReader(folder), oracle, settings, INPUT_PX, "keypoints", HandLayer()))
        for image in images:
            evaluator.add(image)
        evaluator.finish()
    columns = HandColumns(tmp_path / "out" / "hands.parquet")
    return evaluator.results(columns), columns, images
