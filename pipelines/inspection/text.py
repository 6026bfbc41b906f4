"""A survey as lines for people."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.inspection.survey import SplitSurvey, Survey

MAX_DAMAGED = 3  # named per split


def describe(survey: Survey) -> Iterator[str]:
    """What is there, what is missing, and how labels fit."""
    yield f"{survey.title} at {survey.path}"
    if survey.parts:
        yield ""
        width = max(len(part.name) for part in survey.parts)
        yield f"{'':{width}}  {'found':>10}  {'published':>10}"
        for part in survey.parts:
            published = "" if part.published is None else f"{part.published:,}"
            lacks = part.found == 0 or (part.published is not None and part.found < part.published)
            note = "  missing" if part.found == 0 else "  a part of them" if lacks else ""
            yield f"{part.name:{width}}  {part.found:>10,}  {published:>10}{note}{f': {part.note}' if lacks and part.note else ''}"
    for split in survey.splits:
        yield ""
        yield from _describe_split(split)
    yield ""
    if survey.problems:
        yield "cannot be used:"
        yield from (f"  {problem}" for problem in survey.problems)
    else:
        yield "a partial copy, which can be used" if survey.partial else "complete, as far as the numbers say"


def _describe_split(split: SplitSurvey) -> Iterator[str]:
    if split.unusable:
        yield f"{split.name}: {'not there' if split.not_there else 'cannot be read'}: {split.unusable}"
        return
    yield f"{split.name}: {split.num_samples:,} samples; of {split.num_looked_at:,} looked at, {len(split.damaged):,} damaged"
    for reason in split.damaged[:MAX_DAMAGED]:
        yield f"  {reason}"
    evidence = split.evidence
    for errors, what in ((evidence.projection, "labelled 2D and projected 3D"), (evidence.published, "published 2D and labels")):
        if errors.count:
            yield f"  {what}: mean {errors.mean_px:.2f} px, largest {errors.max_px:.2f} px ({errors.count:,} keypoints)"
    if evidence.projection.count and not evidence.published.count:
        yield "  (no 2D keypoints are published: the labelled ones are the projected 3D ones, and only box and mask are evidence)"
    for share, what in ((evidence.in_box, "in the published box"), (evidence.on_mask, "on the published mask")):
        if share.count:
            yield f"  keypoints {what}: {share.fraction:.1%} of {share.count:,}"
