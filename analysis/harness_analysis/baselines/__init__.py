"""What the graph networks are compared with: published equations, forests, boosting, sums over kernels, a white box."""
