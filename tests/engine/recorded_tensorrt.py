"""A stand-in for the module tensorrt, as narrow as the real one: it has only names that a recorded version has.

tensorrt_10.json and tensorrt_11.json hold the public names of each class, from type stubs and from the bindings'
source. The classes below do as little as the builder needs. None can have a name that was not recorded, and to ask one
for such a name or to set it raises AttributeError: what runs here uses no API that this version lacks.
"""

import json
import types
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np

PLAN = b"a plan"


def surface(major: int) -> dict[str, list[str]]:
    """Class -> public names of that version of tensorrt."""
    classes = json.loads(Path(__file__).with_name(f"tensorrt_{major}.json").read_text())["classes"]
    return {name: members.split() for name, members in classes.items()}


def removed_in_11() -> set[str]:
    """Names that classes of version 10 have and those of 11 have not, but for what the stubs give every enum."""
    before, after = surface(10), surface(11)
    return {name for c in before for name in set(before[c]) - set(after[c])} - {"name", "value", "Members", "itemsize"}


def make_module(major: int, on_step: Callable[[int], None] = lambda step: None) -> types.ModuleType:
    """The module; `on_step` is called in the library's thread at each of the 100 steps of a build.

    Its `events` are what the builder did: ("network", flags), ("flags off", flag), ("timings", blob), ...
    """
    known = surface(major)
    trt = types.ModuleType("tensorrt")
    trt.__version__ = f"{major}.1.0"
    trt.events = events = []

    class Guarded:
        def __init_subclass__(cls):
            unknown = {name for name in vars(cls) if not name.startswith("_")} - set(known[cls.__name__])
            assert not unknown, f"tensorrt {major} has no {cls.__name__}.{unknown}"
            setattr(trt, cls.__name__, cls)

        def __setattr__(self, name, value):
            if not name.startswith("_") and name not in known[_recorded(type(self)).__name__]:
                raise AttributeError(f"tensorrt {major} has no {type(self).__name__}.{name}")
            object.__setattr__(self, name, value)

    def _recorded(cls):
        return next(base for base in cls.__mro__ if base.__name__ in known)

    for enum in ("BuilderFlag", "MemoryPoolType", "NetworkDefinitionCreationFlag", "DataType"):
        members = {name: value for value, name in enumerate(known[enum]) if name not in ("name", "value", "Members")}
        setattr(trt, enum, types.SimpleNamespace(**members, __members__=members))

    class ILogger:
        def log(self, severity, msg):
            raise NotImplementedError

    class IProgressMonitor:
        def phase_start(self, phase_name, parent_phase, num_steps): ...
        def phase_finish(self, phase_name): ...
        def step_complete(self, phase_name, step): ...

    # These are for others to derive from, who may have names of their own.
    trt.ILogger, trt.IProgressMonitor = ILogger, IProgressMonitor
    say = types.SimpleNamespace(name="WARNING"), types.SimpleNamespace(name="VERBOSE")

    class ITensor(Guarded):
        def __init__(self, value):
            self.name = value.name
            self.shape = tuple(d.dim_value or -1 for d in value.type.tensor_type.shape.dim)
            self.dtype = "float32"

    class ITimingCache(Guarded):
        def __init__(self, blob):
            self._blob = blob

        def serialize(self):
            return self._blob + b" and this build's"

    class IBuilderConfig(Guarded):
        def create_timing_cache(self, serialized_timing_cache):
            events.append(("timings", serialized_timing_cache))
            return None if serialized_timing_cache == b"damaged" else ITimingCache(serialized_timing_cache)

        def set_timing_cache(self, cache, ignore_mismatch):
            return not cache._blob.startswith(b"another GPU's")

        def set_memory_pool_limit(self, pool, pool_size):
            events.append(("limit", pool, pool_size))

        def clear_flag(self, flag):
            events.append(("off", flag))

        def add_optimization_profile(self, profile):
            events.append(("profile", *profile._shapes))
            return 0

    class IOptimizationProfile(Guarded):
        def set_shape(self, input, min, opt, max):
            self._shapes = input, min, opt, max

    class INetworkDefinition(Guarded):
        def __init__(self, flags):
            events.append(("network", flags))

        num_inputs = property(lambda self: len(self._graph.input))
        num_outputs = property(lambda self: len(self._graph.output))
        num_layers = property(lambda self: len(self._graph.node))

        def get_input(self, index):
            return ITensor(self._graph.input[index])

        def get_output(self, index):
            return ITensor(self._graph.output[index])

    class OnnxParser(Guarded):
        def __init__(self, network, logger):
            self._network = network

        def parse(self, model):
            import onnx

            self._network._graph = onnx.load_from_string(model).graph
            self._network._weights = weakref.ref(self)  # the parser owns them
            return True

    class Builder(Guarded):
        def __init__(self, logger):
            self._logger = logger

        def create_network(self, flags=0):
            return INetworkDefinition(flags)

        def create_builder_config(self):
            return IBuilderConfig()

        def create_optimization_profile(self):
            return IOptimizationProfile()

        def build_serialized_network(self, network, config):
            assert network._weights() is not None, "the parser is gone, and with it the weights"
            self._logger.log(say[0], "a layer\nis slow")
            self._logger.log(say[1], "a tactic")
            monitor = config.progress_monitor
            monitor.phase_start("build", None, 100)
            for step in range(100):
                on_step(step)
                if not monitor.step_complete("build", step):
                    return None
            monitor.phase_finish("build")
            return PLAN

    trt.Dims = tuple
    trt.nptype = lambda dtype: getattr(np, dtype)
    return trt
