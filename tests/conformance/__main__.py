"""Run PEFT's own tests over our methods: `python -m tests.conformance [quick|lm|quant|compile] [pytest arguments]`.

`-k loretta_rep`, for one, runs a single method. The tests are those of the source distribution of the installed PEFT.
They, the packages that only they import, and tiny random models under the names that they ask for lie in a cache,
which is made on first use from the package registry: in the environment, or where CONFORMANCE_CACHE says. `plugin`
gives the tests our rows, which are in `cases`.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("CONFORMANCE_CACHE", Path(sys.prefix) / "conformance"))

PARTS = {
    "quick": ["custom_models", "config"],
    "lm": [
        "decoder_models",
        "encoder_decoder_models",
        "feature_extraction_models",
        "seq_classifier",
        "token_classification_qa",
    ],
    "quant": ["quantization"],
    "compile": ["torch_compile"],
}

# Kept out of the environment, where PEFT and transformers would find them and act otherwise in all our tests.
PACKAGES = [
    "diffusers==0.42.1",
    "importlib_metadata==10.2.0",
    "zipp==4.1.2",
    "requests==2.34.2",
    "urllib3==2.8.0",
    "charset_normalizer==3.5.2",
    "certifi==2026.10.18",
]
QUANTISATION_PACKAGES = ["torchao==0.18.0", "bitsandbytes==0.50.2"]


def cached(name: str, build: Callable[[Path], None]) -> Path:
    """Give a folder of the cache, which is built on first use, whole or not at all.

    Args:
        name: The folder's name, which changes with what is in it.
        build: Fills an empty folder.

    Returns:
        The folder.
    """
    folder = CACHE / name
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        working = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=CACHE))
        try:
            build(working)
            working.rename(folder)
        finally:
            shutil.rmtree(working, ignore_errors=True)
    return folder


def pip(*arguments: str) -> None:
    """Call pip of this environment."""
    subprocess.run([sys.executable, "-m", "pip", *arguments, "-q", "--disable-pip-version-check"], check=True)


def peft_tests() -> Path:
    """Give a folder with PEFT's tests as the package `peft_tests`."""
    release = f"peft-{version('peft')}"

    def fetch(folder: Path) -> None:
        with tempfile.TemporaryDirectory() as download:
            pip("download", "--no-deps", "--no-binary", "peft", "-d", download, f"peft=={version('peft')}")
            with tarfile.open(Path(download) / f"{release}.tar.gz") as archive:
                archive.extractall(download, filter="data")
            shutil.copytree(Path(download) / release / "tests", folder / "peft_tests")
        (folder / "peft_tests" / "__init__.py").touch()
        (folder / "pytest.ini").write_text("[pytest]\n")  # so that pytest does not take ours

    return cached(release, fetch)


def packages(requirements: list[str]) -> Path:
    """Give a folder with packages, installed without what they depend on."""
    digest = hashlib.sha256("\n".join(requirements).encode()).hexdigest()[:8]
    return cached(
        f"packages-{digest}", lambda folder: pip("install", "--no-deps", "--target", str(folder), *requirements)
    )


def hub() -> Path:
    """Give a folder in the layout of the hub's cache, with the models that the tests ask for."""
    maker = Path(__file__).with_name("hub.py")
    digest = hashlib.sha256(maker.read_bytes()).hexdigest()[:8]
    return cached(
        f"hub-{digest}",
        lambda folder: subprocess.run([sys.executable, str(maker), str(folder)], check=True),
    )


def main() -> int:
    """Run one part and give pytest's exit status."""
    part, *arguments = sys.argv[1:] or ["quick"]
    if part not in PARTS:
        sys.exit(f"There is no part {part!r} of the conformance tests; expected one of {', '.join(PARTS)}.")
    tests = peft_tests()
    path = [ROOT, tests, packages(PACKAGES)]
    if part == "quant":
        path.append(packages(QUANTISATION_PACKAGES))
    environment = dict(os.environ)
    environment.setdefault("CUDA_VISIBLE_DEVICES", "")  # on the processor, unless told otherwise
    environment |= {
        "PYTHONPATH": os.pathsep.join(map(str, path)),
        "HF_HOME": str(hub()),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PEFT_DEBUG_WITH_TORCH_COMPILE": str(int(part == "compile")),
    }
    files = [f"peft_tests/test_{name}.py" for name in PARTS[part]]
    options = ["-q", "-p", "tests.conformance.plugin", "-p", "no:cacheprovider", "-W", "ignore", "--tb=short"]
    command = [sys.executable, "-m", "pytest", *options, *files, *arguments]
    return subprocess.run(command, cwd=tests, env=environment).returncode


if __name__ == "__main__":
    sys.exit(main())
