"""Values that do not go together, refused when a run is planned.

A worker refuses them too, but only once it has waited for its turn.
"""

from __future__ import annotations

from protoseg.errors import UsageError
from protoseg.spec.schema import RunSpec


def check_values(spec: RunSpec, where: str) -> None:
    """Refuse what could not be trained or evaluated.

    Raises:
        UsageError: the first of it; it names ``where``.
    """
    evaluation, schedule = spec.evaluation, spec.schedule
    if evaluation.mode == "slide":
        for key in ("crop_size", "stride"):
            if not getattr(evaluation, key):
                raise UsageError(
                    f"{where}: evaluation.{key}: evaluation.mode=slide needs it, [height, width]; "
                    "set it, or choose an evaluation that has a window, e.g. evaluation=slide_512."
                )
    if schedule.warmup_iterations >= schedule.iterations:
        raise UsageError(
            f"{where}: schedule.warmup_iterations: {schedule.warmup_iterations} is not less than "
            f"the {schedule.iterations} iterations of the run; lower it, or set "
            "schedule.iterations higher."
        )
