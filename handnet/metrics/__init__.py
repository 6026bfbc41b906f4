"""Evaluation metrics of hand reconstruction: pure numpy functions, vectorised over samples, computed in float64.

3D points are (N, P, 3) arrays in metres unless a name says otherwise; 2D keypoints are (N, P, 2) in pixels.
"""

from handnet.metrics.alignment import procrustes, root_align, root_offset, scale_root_align, scale_root_offset
from handnet.metrics.bootstrap import bootstrap_mean, bootstrap_ratio, bootstrap_statistic, bootstrap_sums
from handnet.metrics.curves import AUC_THRESHOLDS_M, auc, pck, pck_counts
from handnet.metrics.detection import Matches, average_precision, greedy_matches, hand_type_accuracy, match_detections, precision_recall
from handnet.metrics.errors import camera_space_errors, mpjpe, mpvpe, mrrpe, point_errors
from handnet.metrics.fscore import f_score, surface_distances
from handnet.metrics.interhand import epe, handedness_accuracy, interhand_mpjpe
from handnet.metrics.keypoints2d import hand_errors_px, hand_sizes_px
from handnet.metrics.masks import mask_iou, mask_overlap
from handnet.metrics.similarity import SIGMAS, hand_similarities, keypoint_similarity

__all__ = [
    "AUC_THRESHOLDS_M",
    "SIGMAS",
    "Matches",
    "auc",
    "average_precision",
    "bootstrap_mean",
    "bootstrap_ratio",
    "bootstrap_statistic",
    "bootstrap_sums",
    "camera_space_errors",
    "epe",
    "f_score",
    "greedy_matches",
    "hand_errors_px",
    "hand_similarities",
    "hand_sizes_px",
    "hand_type_accuracy",
    "handedness_accuracy",
    "interhand_mpjpe",
    "keypoint_similarity",
    "mask_iou",
    "mask_overlap",
    "match_detections",
    "mpjpe",
    "mpvpe",
    "mrrpe",
    "pck",
    "pck_counts",
    "point_errors",
    "precision_recall",
    "procrustes",
    "root_align",
    "root_offset",
    "scale_root_align",
    "scale_root_offset",
    "surface_distances",
]
