"""The tuner of LoRETTA_adp, which cannot be merged and says so."""

from ttnet.errors import TTTypeError
from ttnet_llm.loretta_adp.config import TARGET_MODULES, LorettaAdpConfig
from ttnet_llm.loretta_adp.layer import LorettaAdpLinear
from ttnet_llm.registry import register
from ttnet_llm.tt_head import TTHeadModel
from ttnet_llm.tuner import targets


class LorettaAdpModel(TTHeadModel):
    """The tuner of LoRETTA_adp.

    Example:
        >>> from peft import get_peft_model
        >>> from torch import nn
        >>> from ttnet_llm import LorettaAdpConfig
        >>> model = get_peft_model(nn.Sequential(nn.Linear(64, 64)), LorettaAdpConfig(target_modules=["0"]))
        >>> isinstance(model.base_model, LorettaAdpModel)
        True
    """

    prefix = "loretta_adp_"
    tuner_layer_cls = LorettaAdpLinear
    target_module_mapping = TARGET_MODULES
    adapts_feed_forward = True
    default_names = (targets.FEED_FORWARD, targets.STATE_SPACE, targets.OUTPUTS)

    def _check_merge_allowed(self) -> None:
        raise TTTypeError(
            "LoRETTA_adp cannot be merged: a non-linearity stands between its two matrices, so no weight of the "
            "base model can hold it. Keep it as an adapter, use `unload()` to get the base model back, or train "
            "LoRETTA_rep, which merges exactly."
        )


register("loretta_adp", LorettaAdpConfig, LorettaAdpModel)
