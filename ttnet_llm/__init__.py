"""Ultra-small tensor-network adapters for Hugging Face models; the mathematics that they are made of is in `ttnet`.

Importing this package makes its methods known to PEFT, and tensorised models to transformers; from then on their
ordinary names work with them. The public names are those of `__init__.pyi`; each is imported when it is first used.
"""

import lazy_loader

import ttnet

# Another project has a package of this name, which pip writes over ours without a word, or Python finds before it.
if "tt_svd" not in getattr(ttnet, "__all__", ()):
    raise ImportError(
        f"The package `ttnet` in {next(iter(ttnet.__path__))!r} is that of another project, the distribution `ttnet`. "
        "Both cannot be installed together; run: pip uninstall -y ttnet ttnet-torch, and install ttnet-torch again."
    )

from ttnet.moved import keep_old_names
from ttnet.starting import is_command

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

keep_old_names(
    {
        "ttnet_llm.train_matrix.TrainLayout": "ttnet_llm.matrices.aligned.AlignedLayout",
        "ttnet_llm.train_matrix.TrainMatrix": "ttnet_llm.matrices.aligned.AlignedMatrix",
        "ttnet_llm.paired_matrix.PairedLayout": "ttnet_llm.matrices.interleaved.InterleavedLayout",
        "ttnet_llm.paired_matrix.PairedMatrix": "ttnet_llm.matrices.interleaved.InterleavedMatrix",
        "ttnet_llm.compress.CompressReport": "ttnet_llm.lora.compress.CompressReport",
        "ttnet_llm.compress.CompressedModule": "ttnet_llm.lora.compress.CompressedModule",
        "ttnet_llm.export.ExportReport": "ttnet_llm.lora.export.ExportReport",
        "ttnet_llm.export.ExportedModule": "ttnet_llm.lora.export.ExportedModule",
        "ttnet_llm.spectra.ModuleSpectrum": "ttnet_llm.lora.spectrum.ModuleSpectrum",
    }
)

# The command answers to --help without PEFT, and makes the methods known when it runs.
if not is_command("ttnet-llm"):
    from ttnet_llm import loretta_adp, networks, prompts, slim, tensorize  # noqa: F401
