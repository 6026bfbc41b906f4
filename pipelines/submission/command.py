"""What `handnet score` prints: the server's scores by its names, and ours apart from them."""

from __future__ import annotations

from pipelines.submission.scoring import Scores


def scores_text(scores: Scores, layout: str, num_samples: int) -> str:
    """Lines of `name: value` under a heading each."""
    width = max(len(name) for name in (*scores.server, *scores.ours))
    return "\n".join(
        [
            f"{layout}, {num_samples:,} samples, as its server scores: means in cm, AUC over 0 to 5 cm, F-scores at 5 and 15 mm",
            *_lines(scores.server, width),
            "",
            "ours, on no server: aligned by rotations only (the servers' alignment also reflects, so that a mirrored hand has no error)",
            *_lines(scores.ours, width),
        ]
    )


def _lines(scores: dict[str, float], width: int) -> list[str]:
    return [f"{name + ':':{width + 1}} {value:.6f}" for name, value in scores.items()]
