"""The other end of MediapipeProcess: run by the interpreter that has mediapipe, it may import nothing of this project.

Reads images from stdin (height and width as two little-endian uint32, then RGB bytes), answers each with a line of JSON on stdout.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def main() -> None:
    """First line out: {"version": ...} or {"error": ...}; then one line of hands for each image until stdin ends."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever the library prints is no answer
    try:
        import mediapipe
        import numpy as np

        hands = mediapipe.solutions.hands.Hands(static_image_mode=True, max_num_hands=int(sys.argv[1]), min_detection_confidence=0.5)
    except (ImportError, AttributeError, OSError) as error:
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=out)
        return
    print(json.dumps({"version": mediapipe.__version__}), file=out)
    source = sys.stdin.buffer
    while len(header := source.read(8)) == 8:
        height, width = (int.from_bytes(header[i : i + 4], "little") for i in (0, 4))
        image = np.frombuffer(source.read(height * width * 3), np.uint8).reshape(height, width, 3)
        print(json.dumps(_answer(hands.process(image), height, width)), file=out)


def _answer(result: Any, height: int, width: int) -> list[dict[str, Any]]:
    """For each hand the probability that it is a right one and its keypoints in pixels.

    The library takes images for mirrored ones (a selfie): what it calls left in an image that is not is a right hand.
    """
    found = []
    for landmarks, handedness in zip(result.multi_hand_landmarks or [], result.multi_handedness or [], strict=True):
        best = handedness.classification[0]
        keypoints = [[point.x * width, point.y * height] for point in landmarks.landmark]
        found.append({"right": best.score if best.label == "Left" else 1 - best.score, "keypoints": keypoints})
    return found


if __name__ == "__main__":
    main()
