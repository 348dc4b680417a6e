"""The state that changes from step to step, in one object that an optimizer and its wrappers share."""

from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar, overload

from torch import Tensor
from torch.amp import GradScaler

from sam_bench.optim.accumulation import Leftovers
from sam_bench.optim.flat import FlatCopy
from sam_bench.optim.gradients import Gradients

T = TypeVar("T")


@dataclass
class HalfStep:
    """A step that was begun by `first_step`, and waits for `second_step`."""

    has_second_pass: bool
    g: Gradients  #: Empty if the method does not need it in the second half.
    finite: Tensor  #: True if `g` is finite: a boolean scalar on its device.
    clean_statistics: FlatCopy  #: Running statistics as `first_step` found them.
    scaler: GradScaler | None


@dataclass
class Progress:
    """All state that changes from step to step, except the base optimizer's.

    Frameworks hand out wrappers of an optimizer: objects of another class that copy its `__dict__`, or look attributes
    up in it. An attribute set on such a wrapper does not reach the optimizer, but both hold this same object.
    """

    #: Number of steps that changed nothing because a gradient was not finite; on the parameters' device.
    skipped: Tensor
    steps: int = 0
    passes: float = 0.0
    #: True if the last step created no state of the base optimizer.
    settled: bool = False
    memory: dict[Tensor, dict[str, Tensor]] = field(default_factory=dict)

    #: Copies of the weights from before a perturbation; allocated once.
    unperturbed: dict[Tensor, Tensor] = field(default_factory=dict)
    #: Parameters that are perturbed at the moment.
    perturbed_now: list[Tensor] = field(default_factory=list)
    half_step: HalfStep | None = None

    #: Running statistics after the previous step, if there was one.
    statistics_after_step: FlatCopy | None = None
    #: Gradients of small parameters after the previous step.
    leftovers: Leftovers = field(default_factory=dict)
    #: True once a closure without gradients was warned of.
    warned_without_gradients: bool = False
    #: True once a step was taken; torch's learning-rate schedulers look for it.
    stepped: bool = False

    def copy(self) -> "Progress":
        """Return a copy whose lists and dicts later steps do not change; its tensors are shared."""
        return replace(
            self,
            memory=dict(self.memory),
            unperturbed=dict(self.unperturbed),
            perturbed_now=list(self.perturbed_now),
        )

    def forget_step(self) -> None:
        """Forget a step that is half done, and what is known of the steps before; counters and memory stay."""
        self.half_step = None
        self.perturbed_now = []
        self.statistics_after_step = None

    def become(self, other: "Progress") -> None:
        """Take over all values of another progress, in place."""
        vars(self).update(vars(other.copy()))


class SharedAttribute(Generic[T]):
    """An attribute of an optimizer that is kept in its `progress`, under the same name or another one."""

    def __init__(self, name: str = ""):
        self.name = name

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = self.name or name

    @overload
    def __get__(self, optimizer: None, owner: type) -> "SharedAttribute[T]": ...

    @overload
    def __get__(self, optimizer: object, owner: type) -> T: ...

    def __get__(self, optimizer: Any, owner: type) -> Any:
        return self if optimizer is None else getattr(optimizer.progress, self.name)

    def __set__(self, optimizer: Any, value: T) -> None:
        setattr(optimizer.progress, self.name, value)
