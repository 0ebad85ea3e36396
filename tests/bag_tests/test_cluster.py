"""What a Ray cluster is asked for; tests/bag_tests/test_parallel.py starts one."""

import sys
from types import SimpleNamespace

import pytest
from test_parallel import HAS_RAY

from perception_node.bag_tests.cluster import Cluster, lost
from perception_node.errors import UserError


def ray_of(*machines):
    """What `ray` is to us, with machines of (CPUs, GPUs), and one that is no more."""
    nodes = [{"Alive": True, "Resources": {"CPU": float(cpus), "GPU": float(gpus)}} for cpus, gpus in machines]
    nodes.append({"Alive": False, "Resources": {"CPU": 1000.0, "GPU": 1000.0}})
    asked = []
    return SimpleNamespace(
        init=lambda **options: asked.append(options), nodes=lambda: nodes, shutdown=lambda: None, asked=asked
    )


@pytest.mark.parametrize(
    ("machines", "wanted", "threads", "on_gpu", "n_workers"),
    [
        ([(4, 0), (4, 0)], 0, 1, False, 8),
        ([(4, 0), (4, 0)], 3, 1, False, 3),
        ([(3, 0), (3, 0)], 0, 2, False, 2),  # six CPUs, but none lies on two machines
        ([(8, 1), (8, 0)], 0, 2, True, 1),
        ([(2, 4)], 0, 1, True, 2),  # each takes a CPU too
    ],
)
def test_how_many_workers_fit(monkeypatch, machines, wanted, threads, on_gpu, n_workers):
    monkeypatch.setitem(sys.modules, "ray", ray_of(*machines))
    assert Cluster("auto", wanted, threads, on_gpu).n_workers == n_workers


@pytest.mark.parametrize(
    ("threads", "on_gpu", "wanted"), [(4, False, "4 CPUs"), (1, True, "1 CPU and a GPU"), (3, True, "3 CPUs and a GPU")]
)
def test_a_cluster_on_which_none_fits_is_not_waited_for(monkeypatch, threads, on_gpu, wanted):
    monkeypatch.setitem(sys.modules, "ray", ray_of((3, 0), (3, 0), (0, 1)))
    with pytest.raises(UserError) as caught:
        Cluster("auto", 2, threads, on_gpu)
    assert str(caught.value) == (
        f"--ray 'auto': no machine has {wanted} for a worker; they have: CPU 0, GPU 1; CPU 3, GPU 0"
    )


def test_local_is_started_here_whatever_else_there_is(monkeypatch):
    ray = ray_of((2, 0))
    monkeypatch.setitem(sys.modules, "ray", ray)
    Cluster("local", 2, 1, False)
    Cluster("local", 0, 1, False)
    assert [(options["address"], options.get("num_cpus")) for options in ray.asked] == [("local", 2), ("local", None)]


@HAS_RAY
def test_which_errors_mean_a_worker_that_is_lost():
    import ray

    names = "ActorDiedError NodeDiedError OutOfMemoryError ActorUnschedulableError RuntimeEnvSetupError"
    assert all(issubclass(getattr(ray.exceptions, name), lost(ray)) for name in names.split())
    assert not issubclass(ray.exceptions.RayTaskError, lost(ray))
