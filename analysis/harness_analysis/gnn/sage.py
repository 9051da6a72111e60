"""GraphSAGE over one fixed graph, for a whole batch at once.

All configurations share one graph and differ in its features only. So the mean over neighbours is a product with one
small matrix, and a batch is one dense array, instead of many little graphs that are collated and scattered.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from harness.points import IntArray


class DenseSage(nn.Module):
    """One GraphSAGE layer with the mean aggregator (arXiv 1706.02216): W1 mean(neighbours) + W2 x.

    Equal to torch_geometric's `SAGEConv(inputs, outputs, normalize=unit_length)` on the same edges and weights: its
    `lin_l` is `of_neighbours`, its `lin_r` is `own`.

    Args:
        inputs, outputs: features of a node before and after.
        edges: (2, e) sources and targets; a node without sources has a mean of zero.
        nodes: of the graph.
        unit_length: scale each node's output to length 1, as in algorithm 1 of that paper.
    """

    neighbours: Tensor

    def __init__(self, inputs: int, outputs: int, edges: IntArray, nodes: int, unit_length: bool = False) -> None:
        super().__init__()
        self.of_neighbours = nn.Linear(inputs, outputs)
        self.own = nn.Linear(inputs, outputs, bias=False)
        self.unit_length = unit_length
        self.register_buffer("neighbours", mean_matrix(edges, nodes), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(nodes, b, inputs) -> (nodes, b, outputs): with nodes first the mean is one product for the whole batch."""
        mean = (self.neighbours @ x.reshape(len(x), -1)).view(x.shape)
        out: Tensor = self.of_neighbours(mean) + self.own(x)
        return nn.functional.normalize(out, dim=-1) if self.unit_length else out

    def of_paired(self, paired: Tensor, kinds: Tensor) -> Tensor:
        """The same of inputs whose means are known already (`with_neighbours`), so that a step need not form them.

        Args:
            paired: (nodes, b, 2f) mean over neighbours and own features.
            kinds: (nodes, k) further features of each node, alike in all graphs; `inputs` is f + k.
        """
        f = paired.shape[2] // 2
        weight = torch.cat([self.of_neighbours.weight[:, :f], self.own.weight[:, :f]], dim=1)
        alike = nn.functional.linear(self.neighbours @ kinds, self.of_neighbours.weight[:, f:], self.of_neighbours.bias)
        alike = alike + nn.functional.linear(kinds, self.own.weight[:, f:])
        out = (paired.reshape(-1, 2 * f) @ weight.t()).view(*paired.shape[:2], -1) + alike[:, None]
        return nn.functional.normalize(out, dim=-1) if self.unit_length else out


def mean_matrix(edges: IntArray, nodes: int) -> Tensor:
    """(nodes, nodes): row t has 1 / (edges into t) at each of their sources; parallel edges count as often as they are.

    Raises:
        ValueError: edges that are not (2, e), or name a node that the graph does not have.
    """
    pairs = torch.as_tensor(edges, dtype=torch.long)
    if pairs.ndim != 2 or pairs.shape[0] != 2:
        raise ValueError(f"edges are (2, e), not {tuple(pairs.shape)}")
    if pairs.numel() and not 0 <= int(pairs.min()) <= int(pairs.max()) < nodes:
        raise ValueError(f"edges name nodes 0 to {nodes - 1}")
    matrix = torch.zeros(nodes, nodes)
    matrix.index_put_((pairs[1], pairs[0]), torch.ones(pairs.shape[1]), accumulate=True)
    return matrix / matrix.sum(dim=1, keepdim=True).clamp(min=1)


def with_neighbours(nodes: Tensor, edges: IntArray) -> Tensor:
    """(n, nodes, f) -> (nodes, n, 2f): the mean over each node's neighbours, and its own features."""
    first = nodes.transpose(0, 1).contiguous()
    mean = (mean_matrix(edges, len(first)) @ first.view(len(first), -1)).view(first.shape)
    return torch.cat([mean, first], dim=2)


class SageNetwork(nn.Module):
    """One of our two GNNs: two GraphSAGE layers, the maximum over nodes, two linear layers, one number per graph.

    Args:
        node_inputs: features of a node that differ between graphs.
        graph_inputs: features of the whole configuration, which join after the maximum.
        hidden: width of all layers.
        edges: of the graph.
        kinds: (nodes, k) what each node is: further features, alike in all graphs.
    """

    kinds: Tensor

    def __init__(
        self, node_inputs: int, graph_inputs: int, hidden: int, edges: IntArray, kinds: npt.NDArray[np.float32]
    ) -> None:
        super().__init__()
        self.first = DenseSage(node_inputs + kinds.shape[1], hidden, edges, len(kinds))
        self.second = DenseSage(hidden, hidden, edges, len(kinds))
        self.joined = nn.Linear(hidden + graph_inputs, hidden)
        self.answer = nn.Linear(hidden, 1)
        self.register_buffer("kinds", torch.from_numpy(kinds), persistent=False)

    def forward(self, paired: Tensor, graph: Tensor) -> Tensor:
        """(nodes, b, 2 node_inputs) as `with_neighbours` makes them, and (b, graph_inputs) -> (b,)."""
        x = torch.relu(self.first.of_paired(paired, self.kinds))
        # The rectifier after the maximum, where there is less: the two may be swapped.
        x = torch.relu(self.second(x).amax(dim=0))
        x = torch.relu(self.joined(torch.cat([x, graph], dim=1)))
        out: Tensor = self.answer(x)
        return out.squeeze(1)
