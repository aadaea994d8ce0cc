"""Packaging of Sample Factory."""

from pathlib import Path

from setuptools import find_packages, setup

EXTRAS = {
    "atari": ["ale-py>=0.10", "opencv-python-headless>=4.8"],
    "mujoco": ["gymnasium[mujoco]"],
    "pettingzoo": ["pettingzoo[classic]>=1.24"],
    "envpool": ["envpool>=1.0"],
    "vizdoom": ["vizdoom>=1.2", "opencv-python-headless>=4.8"],
    "onnx": ["onnx>=1.16", "onnxscript>=0.2", "onnxruntime>=1.18"],
    "hub": ["huggingface-hub>=0.34,<3"],
    "video": ["imageio>=2.34", "imageio-ffmpeg>=0.5", "pillow>=10"],
    "image": ["opencv-python-headless>=4.8"],
    "bench": ["matplotlib>=3.8", "ale-py>=0.10", "opencv-python-headless>=4.8"],
}
# Everything the tests need, the optional parts included as far as they install quickly and are freely licensed.
DEV = [
    *EXTRAS["onnx"],
    *EXTRAS["hub"],
    *EXTRAS["video"],
    *EXTRAS["image"],
    "gymnasium[classic-control]",
    "hypothesis>=6.100",
    "mypy==2.4.1",
    "pettingzoo>=1.24",
    "pre-commit>=3.7",
    "pytest>=8.2",
    "pytest-timeout>=2.3",
    "ruff==0.17.5",
    "types-psutil",
]

setup(
    name="sample-factory",
    version="3.0.0.dev0",
    description="High throughput asynchronous PPO: train, watch, resume and evaluate reinforcement learning agents",
    long_description=(Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    classifiers=[
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.11",
    packages=find_packages(include=["sample_factory*", "sf_examples*"]),
    package_data={
        "sample_factory": ["py.typed"],
        "sample_factory.ued.config": ["shipped/*/*.json"],
        "sf_examples": ["py.typed"],
    },
    install_requires=[
        "numpy>=1.26,<3",
        "torch>=2.8,<3",
        "gymnasium>=0.29.1,<2",
        "faster-fifo>=1.5.2,<2",
        "signal-slot-mp>=1.0.5,<2",
        "tensorboard>=2.17",
        "wandb>=0.18",
        "psutil>=5.9",
        "threadpoolctl>=3.1",
        "rich>=13.7",
    ],
    extras_require={**EXTRAS, "dev": DEV},
)
