"""The TensorRT library that is installed, and all that differs between the three there are.

`tensorrt` 10 and 11 (Jetson, DRIVE, data centre) build for the GPU they run on and time its kernels; `tensorrt_rtx`
(desktop RTX) compiles for every architecture it knows, without a GPU, and times nothing. Networks are strongly typed in
all of them: precision is in the ONNX. What TensorRT 11 removed (precision flags, calibrators, implicit batch, binding
indices) is used nowhere. Sources: NVIDIA's "Migrating from TensorRT 10.x to 11.x" and "CPU-Only AOT and TensorRT-RTX
Engines", and the Python API references of TensorRT 10.13, 11.1 and TensorRT-RTX 1.7.
"""

import functools
import importlib
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from perception_node.engine.progress import Progress
from perception_node.errors import UserError, one_line

RUNTIMES = ("auto", "tensorrt", "tensorrt_rtx")
INSTALL = {
    "tensorrt": "it comes with JetPack and DRIVE OS; on other machines: pip install tensorrt (NVIDIA's index)",
    "tensorrt_rtx": "pip install tensorrt-rtx-cu12",
}


KEPT = 50
"""The newest messages that are kept: a failing network says the same with each frame."""


class Messages:
    """What the library has said since Library.listen.

    Attributes:
        counts: messages of each severity, "verbose" to "internal_error".
        warnings, errors: those messages, each on one line.
    """

    def __init__(self):
        self.counts: Counter[str] = Counter()
        self.warnings: deque[str] = deque(maxlen=KEPT)
        self.errors: deque[str] = deque(maxlen=KEPT)

    def add(self, severity: str, text: str) -> None:
        self.counts[severity] += 1
        if severity == "warning":
            self.warnings.append(" ".join(text.split()))
        elif severity.endswith("error"):
            self.errors.append(" ".join(text.split()))


class Library:
    """An installed TensorRT; made by open_library.

    Attributes:
        name: "tensorrt" or "tensorrt_rtx".
        version: in full.
        trt: the module.
        logger: the process's only one: the library keeps the first that it sees for as long as any builder or runtime
            lives, and ignores others. Builders and runtimes all take this.
        messages: what it has collected.
        architectures: those that it builds for on any machine, e.g. "sm_86"; none if it builds for the GPU at hand.
    """

    def __init__(self, name: str):
        self.name = name
        self.trt = trt = _import(name)
        self.version: str = trt.__version__
        self.messages = Messages()
        can_aim = hasattr(trt.IBuilderConfig, "set_compute_capability")
        # Through vars, as the type stubs, which are tensorrt's, know nothing of it.
        self._capabilities: dict[str, Any] = vars(trt)["ComputeCapability"].__members__ if can_aim else {}
        known = sorted((name for name in self._capabilities if name.startswith("SM")), key=lambda name: int(name[2:]))
        self.architectures = tuple(name.replace("SM", "sm_") for name in known)

        class Logger(trt.ILogger):
            def __init__(self, library: "Library"):
                trt.ILogger.__init__(self)  # pybind11 wants it called by name
                self._library = library

            def log(self, severity: Any, msg: str) -> None:
                self._library.messages.add(severity.name.lower(), msg)

        self.logger = Logger(self)
        if hasattr(trt, "init_libnvinfer_plugins"):  # the parser makes some ONNX operators into plugins: RoiAlign
            trt.init_libnvinfer_plugins(self.logger, "")

    def listen(self) -> Messages:
        """Begins to collect messages anew, into what it returns."""
        self.messages = Messages()
        return self.messages

    def target(self, architecture: str | None = None) -> dict[str, str | None]:
        """What a plan is built for, as the fields architecture and gpu of its key.

        Args:
            architecture: e.g. "sm_86"; None means that of the GPU here.

        Raises:
            UserError: this library cannot build for it here.
        """
        if self.architectures:
            known = ", ".join(self.architectures)
            if architecture is None:
                try:
                    architecture = _present_gpu()[0]
                except UserError as error:
                    raise UserError(
                        f"--target: which GPU is it for? One of {known}. None found here: {error}"
                    ) from error
            if architecture not in self.architectures:
                raise UserError(
                    f"--target {architecture}: {self.name} {self.version} builds for {known}; for other GPUs (Jetson, "
                    "DRIVE, data centre) take --runtime tensorrt on a machine that has one"
                )
            return {"architecture": architecture, "gpu": None}
        present, gpu = _present_gpu()
        if architecture not in (None, present):
            raise UserError(
                f"--target {architecture}: {self.name} {self.version} builds only for the GPU it runs on, here {gpu} "
                f"({present}); build on a machine with {architecture}"
            )
        return {"architecture": present, "gpu": gpu}

    def create_network(self, builder: Any) -> Any:
        """An empty network definition, strongly typed: always so in 11, where the flag is only tolerated."""
        flag = getattr(self.trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
        return builder.create_network(0 if flag is None else 1 << int(flag))

    def aim(self, config: Any, architecture: str) -> None:
        """Sets the architecture to build for, one that target has admitted."""
        if self.architectures:
            config.num_compute_capabilities = 1
            capability = self._capabilities[architecture.replace("sm_", "SM")]
            if not config.set_compute_capability(capability, 0):
                raise UserError(f"--target {architecture}: {self.name} {self.version} refuses it")

    def monitor(self, progress: Progress) -> Any:
        """An IProgressMonitor that tells `progress`."""
        trt = self.trt

        class Monitor(trt.IProgressMonitor):
            def __init__(self):
                trt.IProgressMonitor.__init__(self)

            def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
                progress.phase_start(phase_name, parent_phase, num_steps)

            def step_complete(self, phase_name: str, step: int) -> bool:
                return progress.step_complete(phase_name, step)

            def phase_finish(self, phase_name: str) -> None:
                progress.phase_finish(phase_name)

        return Monitor()

    @property
    def keeps_timings(self) -> bool:
        """Whether it times kernels, and a timing cache saves it doing so again."""
        return not self.architectures


def open_library(runtime: str = "auto") -> Library:
    """The TensorRT library that is asked for; "auto" prefers tensorrt, which knows more of the GPU that it is on.

    Raises:
        UserError: it is not installed, too old, or cannot be imported.
    """
    if runtime not in RUNTIMES:
        raise UserError(f"--runtime {runtime}: there are {', '.join(RUNTIMES)}")
    names = RUNTIMES[1:] if runtime == "auto" else (runtime,)
    problems = []
    for name in names:
        try:
            return _open(name)
        except ModuleNotFoundError:
            problems.append(f"{name} is not installed ({INSTALL[name]})")
        except (ImportError, OSError) as error:  # installed, but not fit, or a shared library of it is missing
            problems.append(f"{name} cannot be used: {one_line(error)} ({INSTALL[name]})")
    raise UserError(f"no TensorRT to build with or to run: {'; '.join(problems)}")


@functools.cache
def _open(name: str) -> Library:
    return Library(name)


def _import(name: str):  # not annotated: so pyright takes the module's type from its stubs, and checks our calls
    if TYPE_CHECKING:
        import tensorrt

        return tensorrt
    module = importlib.import_module(name)
    if not hasattr(module, "Builder"):  # a folder of that name: type stubs, say
        raise ModuleNotFoundError(name)
    if name == "tensorrt" and int(module.__version__.split(".")[0]) < 10:
        raise ImportError(f"{module.__version__} is too old, 10 or later is needed (JetPack 6.1, DRIVE OS 7)")
    return module


def _present_gpu() -> tuple[str, str]:
    from perception_node.device.cuda import present_gpu

    return present_gpu()
