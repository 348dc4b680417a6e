"""A sharpness-aware optimizer's checkpoint: the base optimizer's state, the counters and the method's memory."""

from typing import Any

import torch
from torch import Tensor

from sam_bench.optim.base import exchanges_weights, is_training, load_in_place
from sam_bench.optim.gradients import is_sharded, local, real, sharded_like
from sam_bench.optim.update import Update

#: The entry of a state dict that is not torch's.
ENTRY = "sharpness_aware"


class Checkpointed(Update):
    """A step whose state can be saved and loaded."""

    def state_dict(self) -> dict[str, Any]:
        """Return the base optimizer's state and groups, in torch's usual form, and the entry `sharpness_aware`.

        Raises:
            RuntimeError: it is called between `first_step` and `second_step`, or while the base's evaluation weights
                are in place of the weights that it trains.
        """
        self._refuse_during_step("state_dict()")
        if exchanges_weights(self.base_optimizer) and not is_training(self.base_optimizer):
            raise RuntimeError(
                "state_dict() was called while the base optimizer's evaluation weights are in place: leave "
                "evaluated_weights(), or call base_optimizer.train(), first"
            )

        for before in self._optimizer_state_dict_pre_hooks.values():
            before(self)
        state_dict = self._collect_state()
        for after in self._optimizer_state_dict_post_hooks.values():
            changed = after(self, state_dict)
            state_dict = state_dict if changed is None else changed
        return state_dict

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a `state_dict()`; load the model's weights too, since a half-done step is forgotten.

        Raises:
            ValueError: the groups do not match, or another class saved the state.
        """
        for before in self._optimizer_load_state_dict_pre_hooks.values():
            changed = before(self, state_dict)
            state_dict = state_dict if changed is None else changed
        self._apply_state(state_dict)
        for after in self._optimizer_load_state_dict_post_hooks.values():
            after(self)

    def _collect_state(self) -> dict[str, Any]:
        """Return the content of `state_dict`, without its hooks; methods add entries of their own."""
        progress = self.progress
        parameters = self._parameters()
        memory = {
            i: {name: _shard_for_saving(p, value) for name, value in progress.memory[p].items()}
            for i, p in enumerate(parameters)
            if p in progress.memory
        }
        own = {
            "steps": progress.steps,
            "passes": progress.passes,
            "skipped": progress.skipped.clone(),
            "memory": memory,
            "method": self.method_name,
        }
        state_dict = self.base_optimizer.state_dict()
        if other_dtypes := _find_other_dtypes(state_dict["state"], parameters):
            own["other_dtypes"] = other_dtypes
        return state_dict | {ENTRY: own}

    def _apply_state(self, state_dict: dict[str, Any]) -> None:
        """Continue from a `state_dict()`, without its hooks; methods load their own entries.

        Raises:
            ValueError: the groups do not match, or another class saved the state.
        """
        if ENTRY not in state_dict:
            raise ValueError(f"this is another optimizer's state: it has no entry {ENTRY!r}")
        own = state_dict[ENTRY]
        if own["method"] != self.method_name:
            raise ValueError(f"this is the state of {own['method']}, not of {self.method_name}")

        load_in_place(self.base_optimizer, {key: state_dict[key] for key in ("state", "param_groups")})

        # torch casts to the parameter's dtype: counters, and moments of another dtype, are taken as they were saved.
        parameters = self._parameters()
        other_dtypes = own.get("other_dtypes", {})
        for i, saved in state_dict["state"].items():
            present = self.base_optimizer.state[parameters[i]]
            for name, value in saved.items():
                if isinstance(value, Tensor) and (value.dim() == 0 or name in other_dtypes.get(i, ())):
                    present[name] = value.to(present[name].device, copy=True)

        progress = self.progress
        progress.forget_step()
        progress.settled = False
        progress.steps = own["steps"]
        progress.passes = own["passes"]
        progress.skipped.copy_(own["skipped"])
        progress.memory = {
            parameters[i]: {name: local(value).to(parameters[i].device, copy=True) for name, value in of_one.items()}
            for i, of_one in own["memory"].items()
        }

    @torch.no_grad()
    def create_state(self) -> None:
        """Create all state that the first step would, for a checkpoint to be loaded into; the weights stay the same.

        `torch.distributed.checkpoint` loads into existing tensors, which a new optimizer does not have yet::

            state = {"model": model, "optimizer": optimizer}
            torch.distributed.checkpoint.save(state, checkpoint_id=folder)

            optimizer.create_state()  # a new one, of a new model
            torch.distributed.checkpoint.load({"model": model, "optimizer": optimizer}, checkpoint_id=folder)

        A checkpoint has no state of parameters that never had a gradient: load such a one with
        `planner=DefaultLoadPlanner(allow_partial_load=True)`. torch's `get_optimizer_state_dict` would leave out the
        method's memory.

        Raises:
            RuntimeError: a step was taken, or half of one.
        """
        self._refuse_during_step("create_state()")
        if self.steps:
            raise RuntimeError(f"create_state() after {self.steps} steps: call it on a new optimizer, before any step")

        # A base creates its state in its first step; whatever that step does to the weights is undone.
        parameters = [p for p in self._parameters() if p.requires_grad]
        weights = [real(p).clone() for p in parameters]
        for p in parameters:
            p.grad = torch.zeros_like(p)
        self.base_optimizer.step()
        torch._foreach_copy_([real(p) for p in parameters], weights)
        self._clear_gradients()
        self._recall(parameters)

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes without `step`, which a learning-rate scheduler sets to a wrapper of its own."""
        return {key: value for key, value in self.__dict__.items() if key != "step"}

    def _refuse_during_step(self, caller: str) -> None:
        """Raise an error if a step is half done.

        Raises:
            RuntimeError: `first_step` was called and `second_step` was not.
        """
        if self.progress.half_step is not None:
            raise RuntimeError(
                f"{caller} came between first_step() and second_step(), where the weights are perturbed: "
                "call second_step() to finish the step, or restore() to undo it"
            )


def _find_other_dtypes(state: dict[int, dict[str, Any]], parameters: list[Tensor]) -> dict[int, list[str]]:
    """Return the names of a base's tensors that have another dtype than their parameter, by its number.

    torch's `load_state_dict` would cast them to the parameter's dtype.
    """
    names = {
        i: [name for name, x in own.items() if isinstance(x, Tensor) and x.dim() and x.dtype != parameters[i].dtype]
        for i, own in state.items()
    }
    return {i: of_one for i, of_one in names.items() if of_one}


def _shard_for_saving(p: Tensor, value: Tensor) -> Tensor:
    """Return a tensor of a sharded parameter's memory as a sharded tensor, if it has the shard's shape."""
    return sharded_like(p, value) if is_sharded(p) and value.shape == real(p).shape else value
