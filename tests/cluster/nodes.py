"""A Ray cluster of several nodes on this machine, on loopback alone, told what to do line by line (`harness_cluster`).

Each line of standard input is a kind of node to add; each answer, and the first line, is a JSON object. It ends with
its input. `ray start` cannot add nodes on loopback; what Ray's own tests use can.
"""

import json
import sys

from ray._private.node import Node
from ray._private.parameter import RayParams
from ray.cluster_utils import Cluster

ON_LOOPBACK = {"node_ip_address": "127.0.0.1", "include_dashboard": False, "object_store_memory": 80_000_000}


def main() -> None:
    if len(sys.argv) > 1:
        join(*sys.argv[1:])
        return
    cluster = Cluster(initialize_head=True, head_node_args={**ON_LOOPBACK, "num_cpus": 0})
    say(address=cluster.address, pids=pids(cluster.head_node))
    for line in sys.stdin:
        node = cluster.add_node(**ON_LOOPBACK, **measuring(line.strip()))
        say(node_id=node.node_id, pids=pids(node))
    cluster.shutdown()


def join(address: str, kind: str) -> None:
    """One node more, from another process."""
    parameters = RayParams(gcs_address=address, **ON_LOOPBACK, **measuring(kind))
    node = Node(parameters, head=False, shutdown_at_exit=True, spawn_reaper=True)
    say(node_id=node.node_id, pids=pids(node))
    sys.stdin.read()


def measuring(kind: str) -> dict[str, object]:
    """As the agents of a sweep want a node; GPUs are Ray's bookkeeping only."""
    return {"num_cpus": 1, "num_gpus": 4, "resources": {"harness-node": 1}, "labels": {"harness-kind": kind}}


def pids(node: object) -> dict[str, list[int]]:
    return {name: [one.process.pid for one in found] for name, found in node.all_processes.items()}  # type: ignore[attr-defined]


def say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


if __name__ == "__main__":
    main()
