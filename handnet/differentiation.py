"""Where a hand-written derivative can't be used, and the plain operations it stands for have to be.

That is in traced and compiled graphs, under torch.func's transforms (vmap, jacrev, ...) and in forward-mode differentiation.
"""

from __future__ import annotations

import torch
from torch.autograd import forward_ad


def needs_plain_operations() -> bool:
    """Whether the code runs for a graph or a transform that sees through operations, but not into a `torch.autograd.Function`."""
    return (
        torch.compiler.is_compiling()
        or torch.jit.is_tracing()
        or torch._C._are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    )
