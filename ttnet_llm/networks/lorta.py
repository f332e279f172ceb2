"""LoRTA: the updates of a whole model as one CP tensor (arXiv:2410.04060)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
from torch import Tensor, nn

from ttnet.errors import TTTypeError
from ttnet_llm.linear import Group, LinearAdapterLayer, LinearConfig, LinearModel, SharedConfig, SharedView
from ttnet_llm.networks.targets import ATTENTION
from ttnet_llm.registry import register
from ttnet_llm.tuner import targets


@dataclass
class LortaConfig(SharedConfig, LinearConfig):
    """Configuration of LoRTA: one CP tensor over (in, out in a head, head, layer, projection).

    The update of projection p in layer l is `(alpha / r) * sum_k A[:, k] C_l[k] D_p[k] (H[:, k] x B[:, k])^T`. All
    modules of a shape share one tensor: with grouped-query attention, the narrower key and value projections have one
    of their own. All fields of `AdapterConfig` apply too; by default the query, key, value and output projections are
    adapted. The size of a head is the model's; where it does not divide the output, that counts as one head.

    Args:
        r: CP rank, at least 1.
        alpha: The update is scaled by `alpha / r`.

    Raises:
        TTValueError: If a value is outside its range.

    Example:
        >>> from peft import get_peft_model
        >>> from transformers import RobertaConfig, RobertaModel
        >>> config = RobertaConfig(hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96)
        >>> model = get_peft_model(RobertaModel(config), LortaConfig(r=4))
        >>> model.get_nb_trainable_parameters()[0] == 4 * (64 + 16 + 4 + 3 + 4)  # r (d + d/H + H + L + P)
        True
    """

    method: ClassVar[str] = "lorta"

    r: int = field(default=4)


class LortaTensor(nn.Module):
    """The factors of the CP tensor of all modules of one shape, each with a column for every term.

    Args:
        group: The modules.
        config: The method's config.
    """

    def __init__(self, group: Group, config: LortaConfig) -> None:
        super().__init__()
        fan_in, r = group.fan_in, config.r
        self.inputs = nn.Parameter(torch.empty(group.in_features, r))
        self.outputs = nn.Parameter(torch.zeros(group.head_size, r))
        self.heads = nn.Parameter(torch.empty(group.out_features // group.head_size, r))
        self.layers = nn.Parameter(torch.empty(len(group.layers), r))
        self.projections = nn.Parameter(torch.empty(len(group.projections), r))
        # As LoRA draws A; signs and sizes of order 1 elsewhere keep the product of five at that spread.
        nn.init.uniform_(self.inputs, -(fan_in**-0.5), fan_in**-0.5)
        for factor in (self.heads, self.layers, self.projections):
            nn.init.normal_(factor)
        if config.init_weights is not True:
            nn.init.uniform_(self.outputs, -(config.r**-0.5), config.r**-0.5)


class LortaView(SharedView):
    """The slice of the CP tensor that belongs to one module."""

    common_cls = LortaTensor

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return the input factor, and the others multiplied together, of shape `(r, out_features)`."""
        weights = self.part("layers")[self.layer] * self.part("projections")[self.projection]  # (r,)
        outputs = (self.part("heads") * weights)[:, None, :] * self.part("outputs")  # (heads, head_size, r)
        return self.part("inputs"), outputs.flatten(0, 1).T

    @classmethod
    def add_up(cls, new: Sequence[Self], given: Sequence[Sequence[Self]], scales: Sequence[float]) -> None:
        """Put the terms of the CP tensors side by side."""
        target, tensors = new[0].shared, [views[0].shared for views in given]
        if sum(tensor.inputs.shape[1] for tensor in tensors) > target.inputs.shape[1]:
            raise TTTypeError(
                "combination_type is 'tt_svd', but LoRTA is a CP tensor, for which no SVD finds fewer terms; say "
                "'cat', or export the adapters with export_lora."
            )
        for name, parameter in target.named_parameters():
            parameter.copy_(torch.cat([getattr(tensor, name) for tensor in tensors], dim=1))
        target.outputs.mul_(torch.cat([torch.full_like(t.outputs[0], s) for t, s in zip(tensors, scales, strict=True)]))


class LortaLinear(LinearAdapterLayer, method="lorta", network=LortaView):
    """A linear layer with LoRTA adapters."""


class LortaModel(LinearModel):
    """The tuner of LoRTA.

    Example:
        >>> from peft import get_peft_model
        >>> model = get_peft_model(nn.Sequential(nn.Linear(64, 64)), LortaConfig(target_modules=["0"]))
        >>> isinstance(model.base_model, LortaModel)
        True
    """

    prefix = "lorta_"
    tuner_layer_cls = LortaLinear
    target_module_mapping = ATTENTION
    default_names = (targets.ATTENTION, targets.STATE_SPACE)


register("lorta", LortaConfig, LortaModel)
