"""Declares the part of a spec about optimiser and learning rate; see `protoseg.config.schema`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from protoseg.config.fields import added, number


@dataclass(frozen=True)
class EmaSpec:
    """An exponential moving average of the weights, as mmengine's ``EMAHook``.

    The averaged weights are evaluated and saved as the model of the run. Buffers are not averaged:
    prototypes and statistics of norms are those of the trained network.
    """

    momentum: float = number(0.0, low=0, high=0.5)
    """Share of the new weights in each update; 0 for no average (mmengine: 0.0002)."""
    interval: int = number(1, low=1)
    """Iterations between two updates."""
    begin_iter: int = number(0, low=0)
    """Iteration of the first update; before it, the average is a copy of the weights."""


@dataclass(frozen=True)
class ScheduleSpec:
    """Optimiser and learning rate: an mmseg recipe, with its main values as fields."""

    recipe: str
    """mmseg config file that provides the optimiser (``optim_wrapper``)."""
    iterations: int = number(low=1)
    batch_size: int = number(low=1)
    """Images per iteration, over all processes."""
    optimizer: Literal[
        "AdamW", "SGD", "ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "Adamax", "NAdam",
        "RAdam", "RMSprop",
    ] = "AdamW"  # fmt: skip
    """An optimiser of torch. AdamW and SGD must be that of the recipe; others replace it."""
    learning_rate: float = number(6e-5, low=0, open_low=True)
    weight_decay: float = number(0.01, low=0)
    power: float = number(1.0, low=0)
    """Exponent of the polynomial decay of the learning rate; 1 for other decays."""
    min_lr: float = number(0.0, low=0)
    """Learning rate at the end of the decay; not of steps."""
    warmup_iterations: int = number(0, low=0)
    """Iterations of linear warm-up, from 1e-6 times the learning rate."""
    head_lr_mult: float = number(1.0, low=0)
    """Learning-rate multiplier of the decode head."""
    norm_decay: Literal["recipe", "never"] = added("recipe")
    """``never``: no weight decay on norm layers. ``recipe``: by the recipe's rules, of which
    mmengine uses one per parameter: norms of the head decay if ``head_lr_mult`` is not 1."""
    stop_after: int = added(0, low=0)
    """Iterations after which the training ends, before the end of its schedule; 0 for all. Trials
    of a successive halving use it."""

    clip_grad: dict[str, Any] = added({})  # noqa: RUF009  a new one for each spec
    """Gradient clipping, as ``optim_wrapper.clip_grad`` of mmengine: ``max_norm`` and
    ``norm_type``, or ``type: value`` and ``clip_value``. Empty for the recipe's."""
    accumulative_counts: int = added(1, low=1)
    """Iterations whose mean gradient makes one step of the optimiser, as in mmengine. Prototypes
    and statistics of norms are updated in each iteration."""
    ema: EmaSpec = added(EmaSpec())  # noqa: RUF009  frozen
    param_scheduler: Literal["PolyLR", "CosineAnnealingLR", "MultiStepLR"] = added("PolyLR")
    """Decay of the learning rate after the warm-up, a scheduler of mmengine."""
    milestones: tuple[int, ...] = added((), low=1)
    """Iterations at which MultiStepLR multiplies the learning rate by ``gamma``."""
    gamma: float = added(0.1, low=0, high=1)
    optimizer_settings: dict[str, Any] = added({})  # noqa: RUF009  a new one for each spec
    """Further arguments of the optimiser, e.g. ``betas`` or ``momentum``."""

    frozen: tuple[str, ...] = added(())
    """Modules of the network that are not trained, e.g. ``backbone`` or ``backbone.layer1``: their
    weights, and the statistics of their norms, stay what they are."""

    def __post_init__(self) -> None:
        if self.clip_grad:
            object.__setattr__(self, "clip_grad", _normalise_clipping(self.clip_grad))
        if self.frozen:  # in one order, without modules below others
            names = sorted(set(self.frozen))
            outer = [n for n in names if not any(n.startswith(f"{other}.") for other in names)]
            object.__setattr__(self, "frozen", tuple(outer))
        if self.param_scheduler != "PolyLR":  # an exponent that is not used gives no other id
            object.__setattr__(self, "power", 1.0)

    @property
    def is_of_recipe(self) -> bool:
        """Whether the optimiser is that of the recipe, with its settings."""
        return self.optimizer in ("AdamW", "SGD")

    @property
    def last_iteration(self) -> int:
        """The iteration after which the training ends."""
        return self.stop_after or self.iterations


def _normalise_clipping(settings: dict[str, Any]) -> dict[str, Any]:
    """Write equal settings of the gradient clipping alike: floats, and no defaults."""
    floats = {
        key: float(value) if isinstance(value, int) and not isinstance(value, bool) else value
        for key, value in settings.items()
    }
    defaults = {"type": "norm", "norm_type": 2.0, "error_if_nonfinite": False}
    return {k: v for k, v in floats.items() if k not in defaults or v != defaults[k]}
