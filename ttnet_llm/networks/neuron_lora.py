"""NeuronLoRA: LoRA of the few neurons of a feed-forward block that are active on the texts it is trained on."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from ttnet.nn.offload import bring_back
from ttnet_llm.linear import FactorNetwork, LinearAdapterLayer, LinearConfig, LinearModel
from ttnet_llm.matrices.thin import best_factors
from ttnet_llm.registry import register
from ttnet_llm.tuner.targets import FEED_FORWARD_OUTPUTS


@dataclass
class NeuronLoraConfig(LinearConfig):
    """Configuration of NeuronLoRA: `delta_W = (alpha / r) * S A B`, where S picks a layer's most active inputs.

    The inputs of the layer that ends a feed-forward block are its neurons, of which a text makes few work hard: a LoRA
    of those, `A: (neurons, r)` and `B: (r, out_features)`, learns almost what one of all neurons does. Which they are
    is settled by the first batch that the adapter is trained on: those with the largest sum of squares. They are saved
    with the adapter. All fields of `AdapterConfig` apply too; by default the last layer of every feed-forward block is
    adapted.

    Args:
        r: Rank of the update, at least 1.
        alpha: The update is scaled by `alpha / r`.
        neurons: How many inputs of every layer are picked, at least 1; `None` takes all of them, as does a number that
            the layer does not have.

    Raises:
        TTValueError: If a value is outside its range.

    Example:
        >>> from peft import get_peft_model
        >>> model = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64))
        >>> model = get_peft_model(model, NeuronLoraConfig(neurons=32, target_modules=["2"]))
        >>> model.get_nb_trainable_parameters()[0] == 32 + 64
        True
    """

    method: ClassVar[str] = "neuron_lora"

    r: int = field(default=1)
    alpha: float = field(default=2)
    neurons: int | None = field(default=384)

    def fields_of_a_sum(self, configs: Sequence[Self], rounds: bool) -> dict[str, Any]:
        """Give the sum room for the neurons of all adapters, or for as many as the first has."""
        if rounds:
            return {"neurons": self.neurons}
        numbers = [None if any(isinstance(v, dict) for v in c.rank_pattern.values()) else c.neurons for c in configs]
        known = [number for number in numbers if number is not None]
        return {"neurons": sum(known) if len(known) == len(numbers) else None}

    def _check_fields(self) -> None:
        super()._check_fields()
        if self.neurons is not None:
            self._check_positive("neurons")


class NeuronLoraNetwork(FactorNetwork):
    """The picked inputs of one layer, and the LoRA of them.

    Args:
        in_features: The layer's input size.
        out_features: The layer's output size.
        fan_in: How many inputs an output adds up.
        config: The method's config, as it holds for the layer.
    """

    picked: Tensor  # (neurons,), increasing

    def __init__(self, in_features: int, out_features: int, fan_in: int, config: NeuronLoraConfig) -> None:
        super().__init__(in_features, out_features, fan_in, config)
        neurons = min(config.neurons or in_features, in_features)
        self.A = nn.Parameter(torch.empty(neurons, config.r))
        self.B = nn.Parameter(torch.zeros(config.r, out_features))
        # Any will do until the first batch.
        self.register_buffer("picked", _in_order(torch.randperm(in_features, device=self.A.device)[:neurons]))
        self._has_seen = False
        # Drawn as a LoRA of so many inputs; a zero B makes the identity.
        spread = min(fan_in, neurons) ** -0.5
        nn.init.uniform_(self.A, -spread, spread)
        if config.init_weights is not True:
            nn.init.uniform_(self.B, -(config.r**-0.5), config.r**-0.5)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return S A, of shape `(in_features, r)`, and B, of shape `(r, out_features)`."""
        if self.A.is_meta:
            bring_back(self)
        return self._spread(self.A), self.B

    def _spread(self, rows: Tensor) -> Tensor:  # (neurons, t) -> (in_features, t)
        return rows.new_zeros(self.in_features, rows.shape[1]).index_copy(0, self.picked.long(), rows)

    @torch.no_grad()
    def see(self, x: Tensor) -> None:
        """Pick the most active inputs of the first batch of a training, unless the adapter has learnt already.

        Args:
            x: The layer's input, `(*batch, in_features)`; indices `(*batch)` for an embedding.
        """
        if self._has_seen or not self.A.requires_grad:
            return
        if self.A.is_meta:
            bring_back(self)
        if len(self.picked) == self.in_features or self.B.any():
            self._has_seen = True
            return
        dtype = torch.promote_types(self.A.dtype, torch.float32)  # squares of activities overflow in float16
        if x.is_floating_point():
            activity = x.reshape(-1, self.in_features).to(dtype).square().sum(0)
        else:
            activity = torch.bincount(x.reshape(-1), minlength=self.in_features).to(dtype)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(activity)  # all processes pick the same
        if not activity.isfinite().all() or not activity.any():
            return  # nothing to go by: the next batch may tell
        self._has_seen = True
        self.picked.copy_(_in_order(activity.topk(len(self.picked)).indices))

    @classmethod
    def add_up(cls, new: Sequence[Self], given: Sequence[Sequence[Self]], scales: Sequence[float]) -> None:
        """Keep what is largest of the sum: its rows with the largest norms, and of those the leading directions."""
        (target,) = new
        left = torch.cat([network._spread(network.A.double()) for (network,) in given], dim=1)
        right = torch.cat([network.B.double() * scale for (network,), scale in zip(given, scales, strict=True)])
        norms = ((left @ (right @ right.mT)) * left).sum(1)
        picked = norms.topk(len(target.picked)).indices.sort().values
        left = left[picked]
        if left.shape[1] > (r := target.A.shape[1]):
            left, right = best_factors(left, right, r)
        target.picked.copy_(_in_order(picked))
        target.A.copy_(left)
        target.B.copy_(right)


def _in_order(picked: Tensor) -> Tensor:
    return picked.sort().values.to(torch.int32)


class NeuronLoraLinear(LinearAdapterLayer, method="neuron_lora", network=NeuronLoraNetwork):
    """A linear layer with NeuronLoRA adapters."""


class NeuronLoraModel(LinearModel):
    """The tuner of NeuronLoRA.

    Example:
        >>> from peft import get_peft_model
        >>> model = get_peft_model(nn.Sequential(nn.Linear(64, 64)), NeuronLoraConfig(target_modules=["0"]))
        >>> isinstance(model.base_model, NeuronLoraModel)
        True
    """

    prefix = "neuron_lora_"
    tuner_layer_cls = NeuronLoraLinear
    target_module_mapping: ClassVar[dict[str, list[str] | str]] = {}
    default_names = (FEED_FORWARD_OUTPUTS,)
    adapts_feed_forward = True


register("neuron_lora", NeuronLoraConfig, NeuronLoraModel)
