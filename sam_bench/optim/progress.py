"""What changes from step to step, in one object that every copy of an optimizer shares."""

from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar, overload

from torch import Tensor
from torch.amp import GradScaler

from sam_bench.optim.flat import FlatCopy
from sam_bench.optim.gradients import Gradients, local

T = TypeVar("T")


@dataclass
class Between:
    """What is held from `first_step` to `second_step`."""

    two: bool
    g: Gradients
    finite: Tensor
    clean: FlatCopy
    scaler: GradScaler | None


class Left:
    """A parameter's gradient as the previous step has left it."""

    def __init__(self, parameter: Tensor, gradient: Tensor):
        self.parameter = parameter
        self.gradient = local(gradient)
        self.version = self.gradient._version

    def unchanged(self) -> bool:
        """Whether nothing has been added to it, nor put in its place."""
        present = self.parameter.grad
        return present is not None and local(present) is self.gradient and self.gradient._version == self.version


@dataclass
class Accumulated:
    """A gradient that was there before a step."""

    parameter: Tensor
    gradient: Tensor
    nonzero: Tensor
    """Whether any of it is not 0, on its device."""


@dataclass
class Progress:
    """Everything of an engine that changes from step to step, the base optimizer's state apart.

    Frameworks hand out wrappers of an optimizer: objects of another class with a copy of its `__dict__`, or with
    attributes that are looked up in it. What is assigned to such a wrapper does not reach the optimizer; this object
    they have in common.
    """

    skipped: Tensor
    """Steps that changed nothing because a gradient was not finite; on the parameters' device."""
    steps: int = 0
    passes: float = 0.0
    settled: bool = False
    memory: dict[Tensor, dict[str, Tensor]] = field(default_factory=dict)
    saved: dict[Tensor, Tensor] = field(default_factory=dict)
    """Where the weights are kept while they are perturbed; allocated once."""
    away: list[Tensor] = field(default_factory=list)
    """The parameters that are perturbed now."""
    between: Between | None = None
    single: bool = False
    """Whether the step that is being taken might have had a second pass, and has none."""
    resting: FlatCopy | None = None
    """The running statistics after the previous step, if there was one."""
    left: dict[Tensor, Left] = field(default_factory=dict)
    """The gradients of small parameters after the previous step."""
    #: True once a closure without gradients was warned of.
    warned_without_gradients: bool = False
    stepped: bool = False
    """Whether a step was taken, as torch's learning-rate schedulers ask."""

    def copy(self) -> "Progress":
        """What the host knows now; tensors are shared."""
        return replace(self, memory=dict(self.memory), saved=dict(self.saved), away=list(self.away))

    def become(self, other: "Progress") -> None:
        """Know again what a copy knows."""
        vars(self).update(vars(other.copy()))


class Shared(Generic[T]):
    """An attribute of an optimizer that is kept in its `progress`, under the same name or another one."""

    def __init__(self, name: str = ""):
        self.name = name

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = self.name or name

    @overload
    def __get__(self, optimizer: None, owner: type) -> "Shared[T]": ...

    @overload
    def __get__(self, optimizer: object, owner: type) -> T: ...

    def __get__(self, optimizer: Any, owner: type) -> Any:
        return self if optimizer is None else getattr(optimizer.progress, self.name)

    def __set__(self, optimizer: Any, value: T) -> None:
        setattr(optimizer.progress, self.name, value)
