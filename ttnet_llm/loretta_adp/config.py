"""Configuration of LoRETTA_adp, and the modules it adapts where the user names none."""

import difflib
from dataclasses import dataclass, field
from typing import ClassVar

from transformers.activations import ACT2FN

from ttnet.errors import TTValueError
from ttnet_llm.matrices.config import TrainConfig

POSITIONS = ("auto", "input", "output")

# Encoders of the BERT family: the outputs of attention and feed-forward block. Decoders: the feed-forward layers.
# One line for each set of names, with the architectures that use them.
_NAMES: list[tuple[list[str] | str, str]] = [
    (["output.dense"], "bert roberta xlm-roberta electra camembert deberta deberta-v2 layoutlm"),
    (["o_proj", "mlp.fc2"], "vit"),
    (["out_lin", "ffn.lin2"], "distilbert"),
    (["attention.dense", "ffn_output"], "albert"),
    (["gate_proj", "up_proj", "down_proj"], "llama llama4 mistral gemma gemma2 gemma3_text qwen2 qwen3 stablelm"),
    (r".*language_model\..*\.(gate_proj|up_proj|down_proj)", "gemma4"),
    (["up_proj", "down_proj"], "mpt nemotron_h"),
    (["o_proj"], "mixtral"),  # its feed-forward layers are experts held as one parameter, not as modules
    (["fc1", "fc2"], "opt bart phi"),
    (["fc_in", "fc_out"], "gptj codegen"),
    (["mlp.c_fc", "mlp.c_proj"], "gpt2 gpt_neo gpt_bigcode"),
    (["mlp.c_fc", "mlp.c_fc2", "mlp.c_proj"], "btlm"),
    (["dense_h_to_4h", "dense_4h_to_h"], "bloom falcon RefinedWeb RefinedWebModel gpt_neox chatglm"),
    (["wi", "wi_0", "wi_1", "wo"], "t5 mt5"),
    (r".*\.(fc1|fc2|wi|wi_0|wi_1|wo)", "blip-2"),
    (r".*feed_forward\.(key|value)", "rwkv"),
    (r".*ffn\.(key|value)", "rwkv7"),
]
TARGET_MODULES = {architecture: names for names, architectures in _NAMES for architecture in architectures.split()}


@dataclass
class LorettaAdpConfig(TrainConfig):
    """Configuration of LoRETTA_adp: `h + scaling * up(act(down(h)))` around frozen linear layers.

    All fields of `AdapterConfig` and `TrainConfig` apply too. By default the attention and feed-forward outputs are
    adapted in encoders of the BERT family, and the feed-forward layers in decoders.

    Args:
        bottleneck: Size between `down` and `up`, at least 1.
        non_linearity: Name of the activation between them, one of transformers' `ACT2FN`.
        scaling: Factor on the adapter's contribution.
        position: What `h` is: the layer's `"output"`, its `"input"`, or `"auto"`: whichever is narrower, the
            output if both are equal. So the adapter sits on the model's hidden state also where a
            feed-forward block widens it.

    Raises:
        TTValueError: If a value is outside its range or the activation is unknown.

    Example:
        >>> import torch
        >>> from peft import get_peft_model
        >>> model = torch.nn.Sequential(torch.nn.Linear(768, 768))
        >>> model = get_peft_model(model, LorettaAdpConfig(target_modules=["0"]))
        >>> model.get_nb_trainable_parameters()
        (1902, 592494)
    """

    method: ClassVar[str] = "loretta_adp"
    scale_field: ClassVar[str] = "scaling"

    bottleneck: int = field(default=64)
    non_linearity: str = field(default="relu")
    scaling: float = field(default=1.0)
    position: str = field(default="auto")

    @property
    def update_scale(self) -> float:
        """The factor on the adapter's contribution."""
        return self.scaling

    def _check_fields(self) -> None:
        super()._check_fields()
        self._check_positive("bottleneck")
        self._check_choice("position", POSITIONS)
        if self.non_linearity not in ACT2FN:
            close = difflib.get_close_matches(str(self.non_linearity), list(ACT2FN), n=3) or sorted(ACT2FN)
            raise TTValueError(
                f"non_linearity is {self.non_linearity!r}, which transformers' ACT2FN does not have; expected a "
                f"name like {', '.join(map(repr, close))}."
            )
