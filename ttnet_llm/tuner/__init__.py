"""What every method shares: config fields, adapter layer, tuner; what only linear methods share is in `linear`."""

from ttnet_llm.tuner.config import AdapterConfig
from ttnet_llm.tuner.layer import AdapterLayer
from ttnet_llm.tuner.model import AdapterModel
from ttnet_llm.tuner.scaling import rescale_adapter_scale

__all__ = ["AdapterConfig", "AdapterLayer", "AdapterModel", "rescale_adapter_scale"]
