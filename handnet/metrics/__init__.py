"""Evaluation metrics of hand reconstruction: pure numpy functions, vectorised over samples, computed in float64.

3D points are (N, P, 3) arrays in metres unless a name says otherwise; 2D keypoints are (N, P, 2) in pixels.
"""

from handnet.metrics.alignment import procrustes, root_align, scale_root_align
from handnet.metrics.bootstrap import bootstrap_mean, bootstrap_ratio, bootstrap_statistic
from handnet.metrics.curves import AUC_THRESHOLDS_M, auc, pck, pck_counts
from handnet.metrics.detection import Matches, average_precision, greedy_matches, hand_type_accuracy, match_detections, precision_recall
from handnet.metrics.errors import mpjpe, mpvpe, mrrpe, point_errors
from handnet.metrics.fscore import f_score, surface_distances
from handnet.metrics.keypoints2d import hand_errors_px, hand_sizes_px
from handnet.metrics.masks import mask_iou, mask_overlap

__all__ = [
    "AUC_THRESHOLDS_M",
    "Matches",
    "auc",
    "average_precision",
    "bootstrap_mean",
    "bootstrap_ratio",
    "bootstrap_statistic",
    "f_score",
    "greedy_matches",
    "hand_errors_px",
    "hand_sizes_px",
    "hand_type_accuracy",
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
    "scale_root_align",
    "surface_distances",
]
