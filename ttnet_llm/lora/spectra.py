"""What a saved adapter does to each module of its base model, and the picture of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ttnet.errors import TTTypeError, TTValueError, import_extra
from ttnet.plotting import DEPTHS, STYLE
from ttnet_llm.files import atomic
from ttnet_llm.loading import find_adapter, load_adapter
from ttnet_llm.lora.checkpoint import read_config
from ttnet_llm.lora.spectrum import ModuleSpectrum, lora_spectra, module_spectra
from ttnet_llm.tuner import AdapterConfig


def adapter_spectra(adapter: str | Path, *, model: str | None = None) -> list[ModuleSpectrum]:
    """Take a saved adapter apart, module by module.

    Args:
        adapter: Folder of an adapter of this package's or of a LoRA adapter.
        model: The base model, of which only the config is read, and for turns the weights; `None` takes the one that
            the adapter names. LoRA needs none.

    Returns:
        The modules, in their order.

    Raises:
        TTFileError: If the adapter or the config of its base model is not to be found.
        TTTypeError: If the adapter is of another method.
        TTValueError: If weights are not finite.
    """
    folder = find_adapter(adapter)
    method = str(read_config(folder).get("peft_type"))
    if method == "LORA":
        return lora_spectra(folder)
    loaded = load_adapter(folder, model=model, weights=False)
    if not isinstance(loaded.peft_config["default"], AdapterConfig):
        raise TTTypeError(
            f"The adapter in {str(folder)!r} is {method}; expected LoRA or a method of this package, whose updates are "
            "products of thin factors."
        )
    return module_spectra(loaded)


def draw_spectra(spectra: Sequence[ModuleSpectrum], path: str | Path, *, title: str, subtitle: str = "") -> None:
    """Draw the singular values of all updates, one panel for each kind of module.

    Args:
        spectra: The modules; those without singular values are left out.
        path: A png, pdf or svg file, written atomically.
        title: The picture's title.
        subtitle: A smaller second line.

    Raises:
        TTValueError: If no module has singular values.
    """
    kinds: dict[str, list[ModuleSpectrum]] = {}
    for spectrum in spectra:
        if spectrum.singular_values:
            kinds.setdefault(spectrum.name.rpartition(".")[2], []).append(spectrum)
    if not kinds:
        raise TTValueError("No module has an update with singular values other than zero; there is nothing to draw.")
    matplotlib = import_extra("matplotlib", extra="plot")
    colours = import_extra("matplotlib.colors", extra="plot").LinearSegmentedColormap.from_list("depth", DEPTHS)
    with matplotlib.rc_context(STYLE | {"axes.spines.left": False}):
        columns = 3 if len(kinds) in (5, 6) else min(len(kinds), 4)
        rows = -(-len(kinds) // columns)
        figure = import_extra("matplotlib.figure", extra="plot").Figure(
            figsize=(max(3.6 * columns + 0.6, 6.4), 3.4 * rows + 1.0), dpi=160, layout="constrained"
        )
        height = figure.get_size_inches()[1]
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.08, wspace=0.04, rect=(0, 0, 1, 1 - 0.8 / height))
        figure.text(0.012, 1 - 0.26 / height, title, fontsize=15, fontweight="bold", va="center")
        figure.text(0.012, 1 - 0.56 / height, subtitle, fontsize=10.5, color="#5B626B", va="center")
        axes = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
        for axis in axes[len(kinds) :]:
            axis.set_visible(False)
        for k, (axis, (kind, members)) in enumerate(zip(axes, kinds.items(), strict=False)):
            axis.set_title(kind, loc="left", fontsize=11.5, pad=10)
            axis.set_yscale("log")
            axis.tick_params(length=0, which="both")
            axis.xaxis.set_major_locator(import_extra("matplotlib.ticker", extra="plot").MaxNLocator(integer=True))
            axis.set_xlabel("index")
            if k % columns == 0:
                axis.set_ylabel("singular value of the update")
            for depth, member in enumerate(members):
                colour = colours(depth / max(len(members) - 1, 1))
                values = member.singular_values or ()
                axis.plot(range(1, len(values) + 1), values, color=colour, lw=1.5, marker="o", ms=3.5)
        with atomic(path) as temporary:
            figure.savefig(temporary, facecolor="white", metadata={"Software": None})
