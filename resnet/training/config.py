"""TrainConfig: how long, in which portions, and towards which targets a net is trained."""

import dataclasses

from resnet.data.augmentation.mixing import EACH, Mixing
from resnet.durations import check_interval, parse_duration
from resnet.errors import InputError, check_at_least, check_choice, check_within
from resnet.fields import Fields

STOP, SKIP, ROLLBACK = POLICIES = ("stop", "skip", "rollback")


@dataclasses.dataclass(unsafe_hash=True)
class TrainConfig(Fields, section="train"):
    """How long, in which portions, and towards which targets the net is trained."""

    seeds: int = 1
    """Runs trained together as one program: of `seed`, `seed` + 1, …, each in a folder of its own."""
    batch_size: int = 128
    """Images per step, over all devices."""
    duration: str = "64000 steps"
    """Length of the training, e.g. "20 epochs", "64000 steps", "128000 examples"."""
    steps_per_call: int = 1
    """Steps per dispatch to the device; changes the speed, and how numbers are rounded."""
    accumulate: int = 1
    """Parts of a batch whose gradients are computed one after the other and averaged, to save memory.

    Batch norms see the parts."""
    label_smoothing: float = 0.0
    """Share of each one-hot target spread over all classes (Szegedy 2016: 0.1)."""
    mixup: float = 0.0
    """Parameter of the Beta distribution of mixup's weights (Zhang 2018: 0.2 on ImageNet); 0 = none."""
    cutmix: float = 0.0
    """Parameter of the Beta distribution of CutMix's areas (Yun 2019: 1.0); 0 = none."""
    mix_switch: float = 0.5
    """Probability of CutMix where mixup is on as well."""
    mix_probability: float = 1.0
    """Probability that images are mixed at all."""
    mix_each: str = "batch"
    """What has a weight and a box of its own: the batch, or each pair of images."""
    target_threshold: float = 0.0
    """Targets above it, after smoothing and mixing, become 1 and others 0, for `model.output` sigmoid."""
    sam: float = 0.0
    """Distance to the neighbour, along the gradient, whose gradient is followed (SAM, Foret 2021: 0.05 on
    CIFAR-10); a step costs twice as much. 0 = none."""
    ema: float = 0.0
    """Decay per step of the average of parameters and statistics, which evaluation uses; 0 = no average.

    Update t has a decay of at most (1 + t) / (10 + t), which is 0.99 at 890 updates and 0.999 at 8,990."""
    ema_every: int = 1
    """Steps between two updates of the moving average, each with the decay of so many steps."""
    smaller_until: tuple[tuple[str, int], ...] = ()
    """Pairs (end, pixels): before that end, training images are shrunk to so many pixels on the shorter side.

    An end is a duration from the start. Each size compiles a program of its own."""
    evaluate_every: str = "1 epochs"
    """How often the validation split is evaluated; it is at the last step, too."""
    on_divergence: str = "stop"
    """What a loss or gradient that is not finite, or a spike, leads to: stop, skip or rollback.

    Skip leaves out the update of that step, and stops a run that leaves out a hundred in a row; rollback
    returns to the last checkpoint of those that are due by `checkpoint.every`."""
    spike_factor: float = 0.0
    """A loss so many times its mean over the last fifty steps or so is a spike; 0 = there are none."""
    rollbacks: int = 3
    """How often a run returns to its last due checkpoint before it stops after all."""
    rollback_factor: float = 0.5
    """What each rollback multiplies the learning rate with."""
    log_every: str = "50 steps"
    """How often the mean training metrics since the last line are written."""
    telemetry_every: str = "1000 steps"
    """How often the scales of x, F(x) and the gradient at every block go to telemetry.csv; 0 steps: never."""

    def check(self) -> None:
        """Raises InputError naming the field."""
        check_at_least("train.seeds", self.seeds, 1)
        check_at_least("train.batch_size", self.batch_size, 1)
        check_at_least("train.steps_per_call", self.steps_per_call, 1)
        check_at_least("train.accumulate", self.accumulate, 1)
        check_at_least("train.ema_every", self.ema_every, 1)
        for field in ("label_smoothing", "target_threshold", "ema"):
            value = getattr(self, field)
            if not 0 <= value < 1:
                raise InputError(f"`train.{field}` must be at least 0 and below 1; got {value}")
        for field in ("mixup", "cutmix", "sam"):
            check_at_least(f"train.{field}", getattr(self, field), 0)
        for field in ("mix_switch", "mix_probability"):
            check_within(f"train.{field}", getattr(self, field), 0, 1)
        check_choice("train.mix_each", self.mix_each, EACH)
        if parse_duration("train.duration", self.duration).unit == "%":
            raise InputError(f"`train.duration` must be in steps, epochs or examples; got {self.duration!r}")
        for end, _ in self.smaller_until:
            parse_duration("train.smaller_until", end)
        check_interval("train.evaluate_every", self.evaluate_every)
        check_interval("train.log_every", self.log_every)
        parse_duration("train.telemetry_every", self.telemetry_every)
        check_choice("train.on_divergence", self.on_divergence, POLICIES)
        if self.spike_factor and not self.spike_factor > 1:
            raise InputError(f"`train.spike_factor` must be 0 (off) or above 1; got {self.spike_factor}")
        check_at_least("train.rollbacks", self.rollbacks, 1)
        if not 0 < self.rollback_factor < 1:
            raise InputError(f"`train.rollback_factor` must lie between 0 and 1; got {self.rollback_factor}")

    def idle(self) -> dict[str, str]:
        """Fields that have no effect beside the others, and what each of them is for."""
        found = {}
        if not self.mixing:
            found |= dict.fromkeys(("mix_probability", "mix_each"), "`train.mixup` or `train.cutmix` above 0")
        if not (self.mixup and self.cutmix):
            found["mix_switch"] = "both `train.mixup` and `train.cutmix` above 0"
        if self.mixing and not self.mix_probability:
            mixed = ("mixup", "cutmix", "mix_switch", "mix_each")
            found |= dict.fromkeys(mixed, "a `train.mix_probability` above 0")
        if not self.ema:
            found["ema_every"] = "`train.ema` above 0"
        if self.on_divergence != ROLLBACK:
            found |= dict.fromkeys(("rollbacks", "rollback_factor"), f"`train.on_divergence` {ROLLBACK}")
        return found

    @property
    def mixing(self) -> Mixing | None:
        """How each batch is mixed; None: it is not."""
        if not (self.mixup or self.cutmix):
            return None
        return Mixing(self.mixup, self.cutmix, self.mix_switch, self.mix_probability, self.mix_each)
