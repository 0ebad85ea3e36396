"""The kernels compile for every GPU that vehicles have, and take no more registers and shared memory than is known.

nvcc needs no GPU. That the numbers are small says that many threads fit on a GPU, not how fast they are.
"""

import itertools
import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from perception_node import association, ground
from perception_node.device.cuda import FLAGS, LARGEST_BLOCK, find_nvcc
from perception_node.fusion.base import KERNELS
from perception_node.fusion.mask_classification import VARIANTS
from perception_node.preprocess import KERNEL

ARCHITECTURES = (75, 86, 87, 89, 90, 100, 110, 120)
"""Turing, Ampere, Orin, Ada, Hopper, Blackwell, Thor, Blackwell (RTX)."""

DEFINES = {"mask_classification": [(f"-D{variant.upper()}=1",) for variant in VARIANTS]}
FUSION = [
    (source, (f"-DLOGIT={logit}", "-DTILE=4", *defines))
    for source in sorted(KERNELS.glob("*.cu"))
    for logit, defines in itertools.product(("float", "__half"), DEFINES.get(source.stem, [()]))
]
PREPROCESS = [
    (KERNEL, (f"-DNUMBER={number}", *defines))
    for number, defines in (
        *(("float", ("-DENCODING=PACKED", f"-DCHANNELS={channels}")) for channels in (1, 3, 4)),
        ("__half", ("-DENCODING=PACKED",)),
        ("float", ("-DENCODING=YUV422",)),
        ("float", ("-DENCODING=BAYER",)),
        ("float", ("-DENCODING=BAYER", "-DDEPTH=2", "-DRED=1")),
    )
]
TRACKING = [(association.KERNELS, ())]
GROUND = [(ground.KERNEL, ())]
BUILDS = FUSION + PREPROCESS + TRACKING + GROUND

REGISTERS = {"classify": 128, "pick": 104, "group": 176, "contest": 208, "resize_masks": 80}
"""Of those that hold a tile of 16 pixels, or a row of a block: measured 120, 96, 168, 196 and 72 at most."""
OTHER_REGISTERS = 64  # measured: 64 at most
SHARED = 4096 + 256  # bytes; measured: 4096, the sums of a block of 1024
STACK = 384  # bytes of local memory, for arrays whose index is not known when compiling; measured: 320


@pytest.fixture(scope="module")
def builds(tmp_path_factory):
    """Build -> what nvcc says of it. All at once, or it would take minutes."""
    nvcc = find_nvcc()
    if nvcc is None:
        pytest.skip("no nvcc (PATH, CUDA_HOME, /usr/local/cuda, PyPI's nvidia-cuda-nvcc)")
    folder = tmp_path_factory.mktemp("fatbins")
    targets = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in ARCHITECTURES]

    def compile(build):
        source, defines = build
        output = folder / f"{source.stem}{'-'.join(defines)}.fatbin"
        options = [*FLAGS.split(), *targets, "-Xptxas=-v", *defines, "-fatbin", "-o", str(output)]
        return subprocess.run([nvcc, *options, str(source)], capture_output=True, text=True)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return dict(zip(BUILDS, pool.map(compile, BUILDS), strict=True))


def kernels(result):
    """(kernel, architecture) -> bytes of stack, spill and shared memory, numbers of registers and barriers."""
    found = {}
    for part in re.split(r"Compiling entry function ", result.stderr)[1:]:
        name, architecture = re.match(r"'(\w+)' for 'sm_(\d+)'", part).groups()
        patterns = {
            "stack": r"(\d+) bytes stack frame",
            "spill": r"(\d+) bytes spill stores",
            "registers": r"Used (\d+) registers",
            "barriers": r"used (\d+) barriers",
            "shared": r"(\d+) bytes smem",
        }
        matches = {what: re.search(pattern, part) for what, pattern in patterns.items()}
        found[name, int(architecture)] = {what: int(match[1]) if match else 0 for what, match in matches.items()}
    return found


@pytest.fixture(params=BUILDS, ids=lambda build: "".join([build[0].stem, *build[1]]))
def build(request):
    return request.param


@pytest.fixture
def built(build, builds):
    result = builds[build]
    assert result.returncode == 0, result.stderr + result.stdout
    return kernels(result)


def test_every_architecture_gets_every_kernel(build, built):
    names = {name for name, _ in built}
    assert set(built) == set(itertools.product(names, ARCHITECTURES))
    if build in TRACKING:
        assert names == {"joint_histogram", "relabel"}
    elif build in GROUND:
        assert names == {"look", "fill_cells", "mark_feet", "march", "place_points"}
    else:
        assert names == {"preprocess"} if build in PREPROCESS else {"finish", "total_measures"} <= names


def test_nothing_is_spilled(built):
    assert not [kernel for kernel, use in built.items() if use["spill"]]


def test_registers_and_memory_are_within_the_budget(built):
    for (name, architecture), use in built.items():
        registers = REGISTERS.get(name, OTHER_REGISTERS)
        assert use["registers"] <= registers, (name, architecture, use)
        assert use["shared"] <= SHARED, (name, architecture, use)
        assert use["stack"] <= STACK, (name, architecture, use)


def test_kernels_of_one_block_can_have_the_largest(built):
    """A multiprocessor has 65536 registers."""
    waiting = {kernel: use["registers"] for kernel, use in built.items() if use["barriers"]}
    assert not {kernel: count for kernel, count in waiting.items() if count * LARGEST_BLOCK > 65536}
