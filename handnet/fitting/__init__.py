"""Fit the hand model to 2D keypoints: gradient descent through layer, camera and losses, for many hands at once.

Turns 2D labels (drawn by hand, or by another detector) into poses, 3D keypoints and meshes. Depth follows from the model's size.
"""

from handnet.fitting.keypoints import FittedHands, fit_hands

__all__ = ["FittedHands", "fit_hands"]
