"""What every method shares, linear or not: config fields, the adapter layer and the tuner."""

from ttnet_llm.tuner.config import AdapterConfig
from ttnet_llm.tuner.layer import AdapterLayer
from ttnet_llm.tuner.model import AdapterModel
from ttnet_llm.tuner.scaling import rescale_adapter_scale

__all__ = ["AdapterConfig", "AdapterLayer", "AdapterModel", "rescale_adapter_scale"]
