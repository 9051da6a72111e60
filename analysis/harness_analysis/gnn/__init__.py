"""Graph networks: the 2-GNN of the LLMCO2 paper, ours, NNLQP's single GNN, and how they are trained and kept."""
