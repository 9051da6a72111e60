"""A network as torch_geometric runs it: graphs as objects, collated into batches. For tests and for comparing speed.

The rest of this package does not need it: `sage` computes the same, densely.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import SAGEConv, global_max_pool

from harness.points import IntArray
from harness_analysis.gnn.inputs import Floats
from harness_analysis.gnn.sage import SageNetwork
from harness_analysis.graph import KERNEL_TYPES


class PygNetwork(nn.Module):
    """`SageNetwork` on torch_geometric's layers; `like` has the weights to begin with."""

    def __init__(self, like: SageNetwork) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        for layer in (like.first, like.second):
            convolution = SAGEConv(layer.own.in_features, layer.own.out_features, normalize=layer.unit_length)
            convolution.lin_l.load_state_dict(layer.of_neighbours.state_dict())
            convolution.lin_r.load_state_dict(layer.own.state_dict())
            self.layers.append(convolution)
        self.joined = nn.Linear(like.joined.in_features, like.joined.out_features)
        self.joined.load_state_dict(like.joined.state_dict())
        self.answer = nn.Linear(like.answer.in_features, 1)
        self.answer.load_state_dict(like.answer.state_dict())

    def forward(self, batch: Data) -> Tensor:
        """(graphs,) one number for each graph of a collated batch."""
        x = batch.x
        for layer in self.layers:
            x = torch.relu(layer(x, batch.edge_index))
        x = torch.cat([global_max_pool(x, batch.batch), batch.whole], dim=1)
        out: Tensor = self.answer(torch.relu(self.joined(x)))
        return out.squeeze(1)


def graphs(nodes: Floats, whole: Floats, edges: IntArray) -> list[Data]:
    """An object for each of n configurations: `nodes` (n, nodes, f), `whole` (n, g), `edges` (2, e)."""
    kinds = torch.from_numpy(KERNEL_TYPES)
    pairs = torch.as_tensor(edges, dtype=torch.long)
    return [
        Data(x=torch.cat([torch.from_numpy(one), kinds], dim=1), edge_index=pairs, whole=torch.from_numpy(of_it[None]))
        for one, of_it in zip(nodes, whole, strict=True)
    ]


def answers(network: PygNetwork, asked: Sequence[Data], batch_size: int = 64) -> Tensor:
    """(n,) in the order of `asked`."""
    network.eval()
    with torch.no_grad():
        return torch.cat([network(batch) for batch in DataLoader(list(asked), batch_size=batch_size)])


def train_epoch(network: PygNetwork, asked: Sequence[Data], targets: Tensor, batch_size: int = 64) -> None:
    """One pass of Adam with squared error over all graphs, in a random order."""
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    network.train()
    for one, target in zip(asked, targets, strict=True):
        one.y = target[None]
    for batch in DataLoader(list(asked), batch_size=batch_size, shuffle=True):
        optimizer.zero_grad()
        torch.autograd.backward([nn.functional.mse_loss(network(batch), batch.y)])
        optimizer.step()
