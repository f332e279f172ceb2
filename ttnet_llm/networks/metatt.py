"""MetaTT: the updates of a whole model, and of several tasks, as one tensor train (arXiv:2506.09105)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self, cast

import torch
from torch import Tensor, nn

from ttnet.errors import TTValueError
from ttnet_llm.linear import Group, LinearAdapterLayer, LinearConfig, LinearModel, SharedConfig, SharedView
from ttnet_llm.matrices.sums import set_to_sum
from ttnet_llm.networks.targets import QUERY_VALUE
from ttnet_llm.registry import register
from ttnet_llm.tuner.stacking import forget


@dataclass
class MetaTTConfig(SharedConfig, LinearConfig):
    """Configuration of MetaTT: one train over (in, layer, projection, out), or (in, layer, projection, task, out).

    The update of projection p in layer l is `(alpha / r) * G_1 @ G_2[l] @ G_3[p] @ G_4`, all modules of a shape
    sharing one train. All fields of `AdapterConfig` apply too; by default the query and value projections are adapted.

    Args:
        r: Rank of every bond, at least 1.
        alpha: The update is scaled by `alpha / r`.
        num_tasks: Number of tasks that share the train; `None` leaves the task core out.
        task: The task whose update is used, from 0; `set_task` changes it.

    Raises:
        TTValueError: If a value is outside its range.

    Example:
        >>> from peft import get_peft_model
        >>> model = nn.Sequential(nn.Linear(96, 64), nn.Linear(96, 64))
        >>> model = get_peft_model(model, MetaTTConfig(r=8, target_modules=["0", "1"]))
        >>> model.get_nb_trainable_parameters()[0] == 96 * 8 + 1 * 8**2 + 2 * 8**2 + 8 * 64
        True
    """

    method: ClassVar[str] = "metatt"
    task_cores: ClassVar[tuple[str, ...]] = ("tasks",)

    num_tasks: int | None = field(default=None)
    task: int = field(default=0)

    def _check_fields(self) -> None:
        super()._check_fields()
        if self.num_tasks is not None:
            self._check_positive("num_tasks")
        check_task(self.task, self.num_tasks)


def check_task(task: int, num_tasks: int | None) -> None:
    """Refuse a task that there is not.

    Args:
        task: Its number, from 0.
        num_tasks: How many there are; `None` is one.

    Raises:
        TTValueError: If it is outside the range.

    Example:
        >>> check_task(1, 3)
    """
    tasks = num_tasks or 1
    if isinstance(task, bool) or not isinstance(task, int) or not 0 <= task < tasks:
        raise TTValueError(f"task is {task!r}; expected an integer from 0 to {tasks - 1} (num_tasks is {num_tasks}).")


class MetaTTTrain(nn.Module):
    """The cores of the train of all modules of one shape.

    Args:
        group: The modules.
        config: The method's config.
    """

    def __init__(self, group: Group, config: MetaTTConfig) -> None:
        super().__init__()
        fan_in, r = group.fan_in, config.r
        self.inputs = nn.Parameter(torch.empty(group.in_features, r))
        self.layers = nn.Parameter(torch.eye(r).repeat(len(group.layers), 1, 1))
        self.projections = nn.Parameter(torch.eye(r).repeat(len(group.projections), 1, 1))
        self.tasks = nn.Parameter(torch.eye(r).repeat(config.num_tasks, 1, 1)) if config.num_tasks else None
        self.outputs = nn.Parameter(torch.zeros(r, group.out_features))
        self.task = config.task
        # Identities inside make every module start as LoRA does; a zero last core makes the identity of the model.
        nn.init.uniform_(self.inputs, -(fan_in**-0.5), fan_in**-0.5)
        if config.init_weights is not True:
            nn.init.uniform_(self.outputs, -(r**-0.5), r**-0.5)

    def as_train(self) -> list[Tensor]:
        """View the parameters as the cores `(r, n, r')` of a train over (in, layer, projection, task, out)."""
        middle = [core.permute(1, 0, 2) for core in (self.layers, self.projections, self.tasks) if core is not None]
        return [self.inputs[None], *middle, self.outputs[..., None]]


class MetaTTView(SharedView):
    """The slice of the train that belongs to one module."""

    common_cls = MetaTTTrain

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return the first core, of shape `(in_features, r)`, and the others contracted, `(r, out_features)`."""
        middle = self.part("layers")[self.layer] @ self.part("projections")[self.projection]
        if self.shared.tasks is not None:
            middle = middle @ self.part("tasks")[self.shared.task]
        return self.part("inputs"), middle @ self.part("outputs")

    @classmethod
    def add_up(cls, new: Sequence[Self], given: Sequence[Sequence[Self]], scales: Sequence[float]) -> None:
        """Add the trains up, rounded where there is no room for the ranks of the sum."""
        set_to_sum(new[0].shared.as_train(), [views[0].shared.as_train() for views in given], scales)


class MetaTTLinear(LinearAdapterLayer, method="metatt", network=MetaTTView):
    """A linear layer with MetaTT adapters."""


class MetaTTModel(LinearModel):
    """The tuner of MetaTT.

    Example:
        >>> from peft import get_peft_model
        >>> model = get_peft_model(nn.Sequential(nn.Linear(64, 64)), MetaTTConfig(target_modules=["0"]))
        >>> isinstance(model.base_model, MetaTTModel)
        True
    """

    prefix = "metatt_"
    tuner_layer_cls = MetaTTLinear
    target_module_mapping = QUERY_VALUE


def set_task(model: nn.Module, task: int, adapter_name: str = "default") -> None:
    """Choose the task whose update a MetaTT adapter uses, for training and inference alike.

    Args:
        model: A model with a MetaTT adapter that was made with `num_tasks`.
        task: Its number, from 0.
        adapter_name: The adapter.

    Raises:
        TTValueError: If there is no such task or adapter, or the adapter is merged.

    Example:
        >>> from peft import get_peft_model
        >>> base = nn.Sequential(nn.Linear(6, 4))
        >>> model = get_peft_model(base, MetaTTConfig(r=2, num_tasks=3, target_modules=["0"]))
        >>> set_task(model, 2)
    """
    layers = [m for m in model.modules() if isinstance(m, MetaTTLinear) and adapter_name in m.networks]
    if not layers:
        raise TTValueError(f"adapter_name is {adapter_name!r}, but the model has no MetaTT adapter of that name.")
    if any(adapter_name in layer.merged_adapters for layer in layers):
        raise TTValueError(f"adapter {adapter_name!r} is merged with the task in use; call `unmerge_adapter()` first.")
    for layer in layers:
        train = cast(MetaTTView, layer.networks[adapter_name]).shared
        check_task(task, None if train.tasks is None else len(train.tasks))
        train.task = task
        layer.drop_factors()
        forget(layer.networks[adapter_name])
    config = getattr(model, "peft_config", {}).get(adapter_name)
    if config is not None:
        config.task = task  # so that it is saved with the adapter


register("metatt", MetaTTConfig, MetaTTModel)
