"""The only place that touches PEFT's method tables."""

from peft.config import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import PeftType, register_peft_method


def peft_type(name: str) -> PeftType:
    """Return PEFT's enum member of a method, created on first use.

    PEFT and transformers call `.value` on a config's type, so a plain string would not do, and PEFT offers no
    way to extend its enum: the member is made here as the enum's own machinery makes one.

    Args:
        name: The method's name in upper case, such as `"LORETTA_REP"`.

    Returns:
        The member; the same object at every call.

    Example:
        >>> peft_type("LORA") is PeftType.LORA
        True
    """
    if name not in PeftType.__members__:
        member = str.__new__(PeftType, name)
        member._name_ = name
        member._value_ = name
        member._sort_order_ = len(PeftType)
        setattr(PeftType, name, member)
        PeftType._member_names_.append(name)
        PeftType._member_map_[name] = member
        PeftType._value2member_map_[name] = member
    return PeftType[name]


def register(name: str, config_cls: type[PeftConfig], model_cls: type[BaseTuner]) -> None:
    """Make a method known to PEFT, so that configs, checkpoints and `get_peft_model` find it.

    Args:
        name: The method's name in lower case, such as `"loretta_rep"`; its parameters' prefix is `name + "_"`.
        config_cls: The method's config class.
        model_cls: The method's tuner class.

    Example:
        >>> import ttnet_llm  # registers the methods
        >>> PEFT_TYPE_TO_CONFIG_MAPPING[PeftType("LORETTA_REP")].__name__
        'LorettaRepConfig'
    """
    member = peft_type(name.upper())
    registered = PEFT_TYPE_TO_TUNER_MAPPING.get(member)
    if registered is None:
        register_peft_method(name=name, config_cls=config_cls, model_cls=model_cls)
        return
    # A module that is imported again (a reloaded notebook) replaces its own classes, and nobody else's.
    if (registered.__module__, registered.__qualname__) != (model_cls.__module__, model_cls.__qualname__):
        raise KeyError(f"PEFT already has a method {name!r}, made by {registered.__module__}; choose another name.")
    PEFT_TYPE_TO_CONFIG_MAPPING[member] = config_cls
    PEFT_TYPE_TO_TUNER_MAPPING[member] = model_cls
