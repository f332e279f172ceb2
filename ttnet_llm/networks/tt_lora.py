"""TT-LoRA: the update itself is one tensor train, input modes then output modes (arXiv:2408.01008)."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

from torch import Tensor

from ttnet.errors import TTValueError
from ttnet_llm.linear import FactorNetwork, LinearAdapterLayer, LinearModel, ParameterLayer
from ttnet_llm.matrices.aligned import AlignedMatrix
from ttnet_llm.matrices.config import FittedConfig
from ttnet_llm.matrices.expert import ExpertTrain
from ttnet_llm.networks.targets import QUERY_VALUE
from ttnet_llm.registry import register
from ttnet_llm.tt_head import TTHeadModel


@dataclass
class TTLoraConfig(FittedConfig):
    """Configuration of TT-LoRA: `delta_W = alpha * train`, cut at the bond between its input and output modes.

    All fields of `AdapterConfig` and `FittedConfig` apply too; by default the query and value projections are
    adapted.

    Args:
        alpha: The factor on the update.

    Raises:
        TTValueError: If a value is outside its range.

    Example:
        >>> from peft import get_peft_model
        >>> from torch import nn
        >>> modes = {"2048x512": [[16, 16, 4, 2], [2, 16, 16]]}
        >>> model = nn.Sequential(nn.Linear(2048, 512))
        >>> model = get_peft_model(model, TTLoraConfig(tt_rank=5, modes=modes, target_modules=["0"]))
        >>> model.get_nb_trainable_parameters()[0]
        1160
    """

    method: ClassVar[str] = "tt_lora"

    alpha: float = field(default=4)

    @property
    def update_scale(self) -> float:
        """The factor on the update."""
        return self.alpha

    def _check_fields(self) -> None:
        super()._check_fields()
        if self.layout != "aligned" or self.modes == "paper":
            name: Any = "layout" if self.layout != "aligned" else "modes"
            raise TTValueError(
                f"{name} is {getattr(self, name)!r}, but TT-LoRA is one aligned train of modes that are chosen "
                "automatically or given by the layer's shape; leave it out, or give modes as a dict."
            )


class TTLoraNetwork(FactorNetwork):
    """The update of one layer, an `in_features x out_features` matrix held as one train.

    Args:
        in_features: The layer's input size.
        out_features: The layer's output size.
        fan_in: How many inputs an output adds up.
        config: The method's config, as it holds for the layer.
        experts: Number of experts whose updates are one train, with a mode of its own for them; `None` for a layer.
    """

    def __init__(
        self, in_features: int, out_features: int, fan_in: int, config: TTLoraConfig, experts: int | None = None
    ) -> None:
        super().__init__(in_features, out_features, fan_in, config)
        self.delta: AlignedMatrix
        if experts is None:
            self.delta = cast(AlignedMatrix, config.matrix(in_features, out_features))  # the layout is always aligned
        else:
            self.delta = config.expert_train(in_features, out_features, experts)
        config.draw(self.delta, 1 / (3 * fan_in), zero=True)

    def factors(self) -> tuple[Tensor, Tensor]:
        """Return the parts of the train on either side of the cut."""
        return self.delta.factors()

    def expert_factors(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the parts of the train on either side of the experts' core, and that core."""
        return cast(ExpertTrain, self.delta).expert_factors()

    @property
    def few_tokens(self) -> int:
        """Up to so many tokens the train is contracted core by core."""
        return self.delta.few_tokens

    @property
    def moves(self) -> tuple[int, int] | None:
        """Numbers written on the way by forming the factors, and core by core for each token."""
        return self.delta.moves

    def multiply(self, x: Tensor) -> Tensor:
        """Contract tokens with the train core by core."""
        return self.delta.multiply(x)

    @property
    def fit_rank(self) -> int:
        """The rank of the train at the cut."""
        return self.delta.layout.cut_rank

    def fit(self, left: Tensor, right: Tensor) -> None:
        """Take over `left @ right` by TT-SVD."""
        self.delta.fit(left, right)


class TTLoraLinear(LinearAdapterLayer, method="tt_lora", network=TTLoraNetwork):
    """A linear layer with TT-LoRA adapters."""


class TTLoraParameter(ParameterLayer, TTLoraLinear):
    """A parameter with TT-LoRA adapters."""


class TTLoraModel(TTHeadModel, LinearModel):
    """The tuner of TT-LoRA.

    Example:
        >>> from peft import get_peft_model
        >>> from torch import nn
        >>> model = get_peft_model(nn.Sequential(nn.Linear(64, 64)), TTLoraConfig(target_modules=["0"]))
        >>> isinstance(model.base_model, TTLoraModel)
        True
    """

    prefix = "tt_lora_"
    tuner_layer_cls = TTLoraLinear
    parameter_layer_cls = TTLoraParameter
    target_module_mapping = QUERY_VALUE


register("tt_lora", TTLoraConfig, TTLoraModel)
