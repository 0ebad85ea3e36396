"""Workers on a Ray cluster (ray.io): an actor each, which holds the engine."""

import os
import platform
import socket
from concurrent.futures import Future
from typing import Any

from perception_node.bag_tests.run import Job, run
from perception_node.errors import UserError, one_line

LOCAL = "local"
ANSWER_S = 10.0
"""The head of a cluster answers within so many seconds."""


class Cluster:
    """A Ray cluster to make workers on; use it in a `with`.

    Args:
        address: of its head, as host:6379 or ray://host:10001; "auto" for the one that this machine belongs to, or
            "local" to start one here.
        n_workers: how many are wanted; 0 for as many as the machines' CPUs and GPUs allow.
        threads: CPUs that each takes.
        on_gpu: each takes a GPU.

    Raises:
        UserError: ray is not installed, there is no cluster there, or none of its machines has what a worker takes.

    Attributes:
        n_workers: how many to make.
    """

    def __init__(self, address: str, n_workers: int, threads: int, on_gpu: bool):
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError as error:
            raise UserError("--ray: ray is not installed; run: pip install 'perception_node[cluster]'") from error
        self._ray, self._threads, self._on_gpu = ray, max(1, threads), on_gpu
        _check_reachable(address)
        # "local" is an address too: without one Ray would join RAY_ADDRESS, or the cluster started last.
        options: dict[str, Any] = {"address": address, "logging_level": "error", "log_to_driver": False}
        if address == LOCAL:
            # Nothing goes through its object store, which would else take a third of the memory.
            options |= {"include_dashboard": False, "object_store_memory": 100 * 2**20}
            if n_workers:
                options["num_cpus"] = n_workers * self._threads
        try:
            ray.init(**options)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise UserError(f"--ray {address!r}: no cluster there: {one_line(error)}") from error
        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        fit = sum(self._fit(machine) for machine in machines)
        if not fit:
            self.__exit__()
            wanted = f"{self._threads} CPU{'s' if self._threads > 1 else ''}{' and a GPU' if on_gpu else ''}"
            there = {f"CPU {machine.get('CPU', 0):g}, GPU {machine.get('GPU', 0):g}" for machine in machines}
            raise UserError(
                f"--ray {address!r}: no machine has {wanted} for a worker; they have: {'; '.join(sorted(there))}"
            )
        self.n_workers = min(n_workers or fit, fit)

    def _fit(self, machine: dict[str, float]) -> int:
        """How many workers a machine has room for; none lies on two of them."""
        cpus = int(machine.get("CPU", 0) // self._threads)
        return min(cpus, int(machine.get("GPU", 0))) if self._on_gpu else cpus

    def worker(self) -> "RayWorker":
        return RayWorker(self._ray, self._threads, self._on_gpu)

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *_: object) -> None:
        self._ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raises UserError if nothing answers at host:6379 or ray://host:10001: Ray itself would wait for it for ever."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"--ray {address!r}: no cluster there: {one_line(error)}") from error


def lost(ray: Any) -> tuple[type[Exception], ...]:
    """What is raised when an actor, its machine or its answer is no more, or it could not start.

    Not RayTaskError: what an actor raises while it lives is its recording's.
    """
    errors = ray.exceptions
    return (
        errors.RayActorError,
        errors.ActorUnschedulableError,
        errors.RuntimeEnvSetupError,
        errors.WorkerCrashedError,
        errors.LocalRayletDiedError,
        errors.NodeDiedError,
        errors.OutOfMemoryError,
        errors.ObjectLostError,
    )


class RayWorker:
    """An actor. What it reads and writes it finds under the same paths: the machines share a file system."""

    def __init__(self, ray: Any, threads: int, on_gpu: bool):
        self._ray, self.lost = ray, lost(ray)
        actor = ray.remote(_Actor).options(num_cpus=threads, num_gpus=int(on_gpu), max_restarts=0)
        self._actor = actor.remote()

    def submit(self, job: Job) -> "Future[dict[str, Any]]":
        return self._actor.run.remote(job).future()

    def close(self) -> None:
        self._ray.kill(self._actor)


class _Actor:
    """In the worker's process; the engine that `run` opens lasts as long as this."""

    def run(self, job: Job) -> dict[str, Any]:
        return {**run(job), "host": platform.node()}
