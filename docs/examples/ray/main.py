"""Tasks on every node of the cluster that the job has."""

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

ray.init(log_to_driver=False)
nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]


@ray.remote(num_cpus=1)
def square(number: int) -> tuple[str, int]:
    """The node that it ran on, and the square."""
    return ray.get_runtime_context().get_node_id(), number * number


there = [NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes]
found = ray.get([square.options(scheduling_strategy=there[at % len(nodes)]).remote(at) for at in range(4)])
cpus = int(ray.cluster_resources()["CPU"])
print(f"{len({node for node, _ in found})} nodes with {cpus} CPUs: {sum(number for _, number in found)}")
